"""What the command line shows while a run trains."""

import io

import pytest
from rich.console import Console

from advdpnp.commands.support import console
from advdpnp.training.trainer import Progress


def epoch(number: int, **warnings: str) -> Progress:
    metrics = {
        "epoch": number,
        "loss": 1.0,
        "validation_clean": 0.9,
        "validation_pgd": 0.8,
        "validation_pgd_margin": 0.7,
        "min_separation": 90.0,
        "seconds": 1.0,
    }
    return Progress(number, 3, number, 3, {}, metrics, warnings)


def test_a_warning_appears_once_a_run_and_the_robust_accuracy_is_the_lower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=shown, soft_wrap=True))
    with console.training_bar("run") as report:
        report(epoch(1, gap="5.1 points"))
        report(epoch(2, gap="6.2 points"))
        report(epoch(3, gap="7.3 points", collapse="classes collapse"))
    text = shown.getvalue()
    assert text.count("points") == 1
    assert "5.1 points" in text
    assert text.count("classes collapse") == 1
    assert text.count("robust 70.0 %") == 3
