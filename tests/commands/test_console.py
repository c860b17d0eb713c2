"""What the commands show while they work."""

import io
import time

import pytest
from rich.console import Console

from advdpnp.base import live
from advdpnp.commands.support import console


def test_a_count_goes_to_a_log_as_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=log))
    monkeypatch.setattr(live, "LOG_EVERY", 0.01)
    with console.counting_bar("detection, digits", 4) as count:
        count()
        until = time.monotonic() + 30
        while "1 of 4 done" not in log.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
    line = next(line for line in log.getvalue().splitlines() if "1 of 4" in line)
    assert line.startswith("detection, digits: 1 of 4 done, 0:00:0")
    assert line.endswith(" left")
