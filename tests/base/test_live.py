"""Lines that change, where there is a terminal, none, and a notebook."""

import io
import sys
import time
import types
from collections.abc import Callable

import pytest
from rich.console import Console

from advdpnp.base import live as module
from advdpnp.base.live import live


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wait_for(met: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not met() and time.monotonic() < until:
        time.sleep(0.01)


def terminal(width: int = 100, **environment: str) -> tuple[Terminal, Console]:
    file = Terminal()
    return file, Console(file=file, width=width, height=20, _environ={"TERM": "xterm", **environment})


def test_a_log_gets_the_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_EVERY", 0.01)
    file = io.StringIO()
    with live(lambda: ["pgd-20", "3 of 4"], lambda: 0.5, Console(file=file, _environ={"FORCE_COLOR": "1"})) as say:
        say("begun")
        wait_for(lambda: "pgd-20: 3 of 4" in file.getvalue())
    assert set(file.getvalue().splitlines()) == {"begun", "pgd-20: 3 of 4"}
    assert "\x1b" not in file.getvalue()


@pytest.mark.parametrize("width", [30, 100])
def test_a_terminal_is_drawn_anew_at_any_width_and_sentences_stay(width: int) -> None:
    file, console = terminal(width)
    with live(lambda: ["a model  pgd-20, linf 8/255", "3 of 4 done, 0:00:10 left"], lambda: 0.5, console) as say:
        say("[begun] at once")
    text = file.getvalue()
    assert "[begun] at once" in text
    assert ("50 %" in text) == (width == 100)
    assert "0:00:10 left" in text.replace("\n", " ").replace("\r", "") or width == 30


def test_a_dumb_terminal_is_a_log() -> None:
    file, console = terminal(TERM="dumb")
    with live(lambda: ["pgd-20"], lambda: 0.5, console) as say:
        say("begun")
    assert file.getvalue() == "begun\n"


def test_a_notebook_replaces_one_output(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            shown.append(data["text/plain"])

    def display(data: dict[str, str], raw: bool, display_id: bool) -> Handle:
        return Handle()

    fake = types.ModuleType("IPython.display")
    fake.display = display
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    monkeypatch.setattr(module, "_NOTEBOOK_EVERY", 0.01)
    console = Console(file=io.StringIO(), force_jupyter=True)
    with live(lambda: ["pgd-20", "3 of 4"], lambda: 0.5, console) as say:
        say("begun")
        wait_for(lambda: "begun\npgd-20\n3 of 4" in shown)
    assert "begun\npgd-20\n3 of 4" in shown
    assert shown[-1] == "begun"
