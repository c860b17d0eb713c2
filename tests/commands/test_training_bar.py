"""What the command line shows while a run trains."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from advdpnp.cli import run
from advdpnp.commands.support import console, training
from advdpnp.commands.support.training import duration, training_bar
from advdpnp.models.loading import load_model
from advdpnp.training import training_run
from advdpnp.training.trainer import Progress
from advdpnp.training.validation import Validation


def progress(step: int, *, epoch: int = 0, left: float = 90.0, warnings: list[str] | None = None) -> Progress:
    metrics = {
        "epoch": epoch,
        "loss": 1.0,
        "validation_clean": 0.9,
        "validation_pgd": 0.8,
        "validation_pgd_margin": 0.7,
        "min_separation": 90.0,
        "seconds": 1.0,
    }
    return Progress(
        epoch,
        3,
        step,
        30,
        {"loss": 1.5, "ce": 1.0, "adv_accuracy": 0.25} if step % 10 else {},
        images_per_second=1234.0,
        seconds_left=left,
        metrics=metrics if epoch else {},
        warnings=warnings or [],
    )


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=text, soft_wrap=True))
    return text


def test_warnings_come_once_at_the_end_and_the_robust_accuracy_is_the_lower_one(shown: io.StringIO) -> None:
    with training_bar("run") as report:
        report(progress(0))
        report(progress(10, epoch=1, warnings=["5.1 points (epoch 1)"]))
        report(progress(20, epoch=2, warnings=["6.2 points (epoch 2)"]))
        assert "points" not in shown.getvalue()
    assert shown.getvalue().count("points") == 1
    assert "run: warning: 6.2 points (epoch 2)" in shown.getvalue()
    assert shown.getvalue().count("robust 70.0 %") == 2


def test_the_first_known_step_tells_the_whole_time_once(shown: io.StringIO) -> None:
    with training_bar("run") as report:
        report(progress(0, left=float("inf")))
        assert "about" not in shown.getvalue()
        report(progress(1, left=7200.0))
        report(progress(9, left=7000.0))
    assert shown.getvalue().count("about") == 1
    assert "3 epochs take about 2 h 0 min, 1,234 images/s" in shown.getvalue()


def test_a_run_of_some_seconds_has_no_estimate(shown: io.StringIO) -> None:
    with training_bar("run") as report:
        for step in range(3):
            report(progress(step, left=9.0))
    assert "about" not in shown.getvalue()


def test_without_a_terminal_a_line_a_minute_shows_that_it_works(
    shown: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(training.time, "monotonic", lambda: now)
    with training_bar("run") as report:
        for step in range(1, 10):
            now += 20
            report(progress(step))
    lines = re.findall(r"^run  step (\d+)/30  loss 1.500  adv acc 0.250  1,234 images/s  left 2 min$",
                       shown.getvalue(), re.MULTILINE)  # fmt: skip
    assert lines == ["5", "9"]  # the first line, that of the whole time, came with step 1


def test_nothing_is_drawn_before_a_setting_is_refused(shown: io.StringIO, tmp_path) -> None:
    words = ["--recipe", "ce", "--dataset", "digits", "--set", "awp=0.1", "--out", str(tmp_path)]
    assert run(["train", *words]) == 2
    assert shown.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_durations_have_two_units_at_most(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_run_ends_with_the_figures_of_what_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = iter([Validation(0.25, 0.5, 0.75, 1.0, 0.0), Validation(0.625, 0.125, 0.125, 1.0, 0.0)])
    monkeypatch.setattr(training_run, "validate", lambda *arguments: next(found))
    words = ["train", "--recipe", "pgd-at", "--dataset", "digits", "--epochs", "2", "--device", "cpu", "--set"]
    words += ["attack.steps=1", "--architecture", "pixels", "--out", str(tmp_path), "--name", "net"]
    assert run(words) == 0
    said, header = capsys.readouterr()
    assert re.search(r"^net  pgd-at, pixels of [\d,]+ parameters, 1,\d+ images of digits, 2 epochs, cpu", header)
    assert "2 epochs, the best is 1 with validation accuracy 25.0 % clean, 50.0 % under PGD" in " ".join(said.split())
    best, last = (
        load_model(str(tmp_path / "net" / f"{name}.safetensors")).metric("epoch") for name in ("best", "last")
    )
    assert (best, last) == (1, 2)
    assert load_model(str(tmp_path / "net")).metric("validation_clean") == 0.25
