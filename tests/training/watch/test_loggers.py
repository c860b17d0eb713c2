"""Loggers of other programs: what they are given, where it lies, and what is said when they are missing."""

import sys
from types import SimpleNamespace

import pandas as pd
import pytest

from advdpnp.base.errors import AdvdpnpError
from advdpnp.cli import run
from advdpnp.training.recipe import resolve_recipe
from advdpnp.training.trainer import train
from advdpnp.training.watch.loggers import Recorder, make_logger

SMALL = {"epochs": 2, "batch_size": 32, "attack.steps": 1, "validation_steps": 1}


class Kept:
    """A logger of a user's own."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.status = ""

    def log_metrics(self, metrics, step):
        self.lines.append((step, dict(metrics)))

    def finalize(self, status):
        self.status = status


def test_a_logger_gets_steps_and_epochs_and_the_end(quadrants, tmp_path):
    mine = Kept()
    metrics = train(resolve_recipe("pgd-at", "none", SMALL), quadrants, tmp_path, logger=mine)
    assert mine.status == "success"
    steps = [(step, line) for step, line in mine.lines if "train/loss" in line]
    assert [step for step, _ in steps] == [1, 3, 6]  # three steps an epoch: the first and the last of each epoch
    # The mean over the last two steps of the first epoch, which that of the epoch and the first step determine.
    (_, first), (_, rest), (_, second) = steps
    assert (first["train/loss"] + 2 * rest["train/loss"]) / 3 == pytest.approx(metrics["loss"][0])
    assert second["train/loss"] == pytest.approx(metrics["loss"][1])
    assert {"train/lr", "train/images_per_second", "train/adversarial_accuracy"} <= set(first)
    epochs = [(step, line) for step, line in mine.lines if "epoch/validation_pgd" in line]
    assert [step for step, _ in epochs] == [3, 6]
    assert [line["epoch/validation_clean"] for _, line in epochs] == list(metrics["validation_clean"])


def test_a_run_that_fails_ends_its_logger(quadrants, tmp_path, monkeypatch):
    mine = Kept()
    monkeypatch.setattr("torch.optim.SGD.step", lambda self: (_ for _ in ()).throw(AdvdpnpError("no")))
    with pytest.raises(AdvdpnpError, match="no"):
        train(resolve_recipe("ce", "none", SMALL), quadrants, tmp_path, logger=mine)
    assert mine.status == "aborted"


def test_means_are_of_the_steps_since_the_last_record():
    mine = Kept()
    recorder = Recorder(mine)
    recorder.steps(1, 1, {"loss": 4.0}, 0.1, 10.0)
    recorder.steps(4, 4, {"loss": 1.75}, 0.1, 10.0)  # (4 + 3 * 1) / 4
    recorder.epoch(4, {"loss": 1.75})
    recorder.steps(9, 5, {"loss": 2.0}, 0.1, 10.0)
    assert [line["train/loss"] for _, line in mine.lines if "train/loss" in line] == pytest.approx([4.0, 1.0, 2.0])


def test_csv_holds_a_line_for_every_record(quadrants, tmp_path):
    train(resolve_recipe("ce", "none", SMALL), quadrants, tmp_path, logger="csv")
    table = pd.read_csv(tmp_path / "csv" / "version_0" / "metrics.csv")
    assert table["train/loss"].notna().sum() == 3
    assert table["epoch/validation_clean"].notna().sum() == 2
    assert sorted(table["step"].unique()) == [1, 3, 6]


def test_tensorboard_reads_what_a_run_wrote(quadrants, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(resolve_recipe("ce", "none", SMALL), quadrants, tmp_path, logger="tensorboard")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("epoch/validation_pgd")] == [3, 6]
    assert [event.step for event in events.Scalars("train/loss")] == [1, 3, 6]


@pytest.fixture
def wandb(monkeypatch):
    """Stands for the package, without network: remembers its calls."""
    calls = SimpleNamespace(inits=[], logs=[], ends=[], fails=None)

    def init(**values):
        if calls.fails:
            raise calls.fails
        calls.inits.append(values)
        return SimpleNamespace(
            log=lambda metrics, step: calls.logs.append((step, metrics)),
            finish=lambda exit_code: calls.ends.append(exit_code),
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return calls


def test_weights_and_biases_gets_the_recipe_and_a_resumed_run_its_page(quadrants, tmp_path, wandb, monkeypatch):
    recipe = resolve_recipe("ce", "none", {**SMALL, "epochs": 1, "optimiser.schedule": "constant"})
    train(recipe, quadrants, tmp_path / "mine", logger="wandb")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    train(recipe.model_copy(update={"epochs": 2}), quadrants, tmp_path / "mine", logger="wandb", resume=True)
    first, second = wandb.inits
    assert (first["project"], second["project"], first["name"]) == ("advdpnp", "theirs", "mine")
    assert first["id"] == second["id"]
    assert len(first["id"]) == 8
    assert first["resume"] == "allow"
    assert first["config"]["method"] == {"name": "ce"}
    assert [step for step, _ in wandb.logs] == sorted(step for step, _ in wandb.logs)  # it refuses steps that go back
    assert wandb.ends == [0, 0]


def test_what_weights_and_biases_refuses_is_one_sentence(tmp_path, wandb):
    wandb.fails = RuntimeError("api_key not configured")
    with pytest.raises(AdvdpnpError, match=r"api_key not configured; run `wandb login`, or set WANDB_MODE=offline"):
        make_logger("wandb", tmp_path, resolve_recipe("ce", "none"), 0)


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("wandb", "wandb", "--logger wandb needs the package wandb; pip install 'advdpnp[wandb]'"),
        ("tensorboard", "torch.utils.tensorboard", "pip install 'advdpnp[tensorboard]'"),
        ("tensorbord", None, "did you mean tensorboard?"),
    ],
)
def test_a_missing_logger_is_one_sentence_before_anything_is_made(
    name, missing, message, tmp_path, monkeypatch, capsys
):
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    words = ["--recipe", "ce", "--dataset", "digits", "--logger", name, "--out", str(tmp_path / "runs")]
    assert run(["train", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
