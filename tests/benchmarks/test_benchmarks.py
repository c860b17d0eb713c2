"""The benchmark of training runs, and its tables have the rows that they should; no time is looked at."""

import importlib
import math
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import advdpnp
from advdpnp.base.errors import AdvdpnpError
from advdpnp.datasets import load_dataset

REPOSITORY = Path(advdpnp.__file__).resolve().parent.parent


@pytest.fixture
def training(monkeypatch):
    """The script, which is no part of the installed package."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    return importlib.import_module("benchmarks.training")


@pytest.fixture
def timing(training):
    """What it and the other scripts share."""
    return training.timing


def tiny(training, **changes):
    values = {
        "architectures": ("small-cnn",),
        "batch": 16,
        "steps": 2,
        "repeats": 1,
        "threads": 1,
        "device": "cpu",
        "workers": (0,),
        "compile": False,
        "classes": (4,),
        "dims": (8,),
    }
    return training.Settings(**{**values, **changes})


def variants(table: pd.DataFrame, part: str) -> list[str]:
    return list(table[table["part"] == part]["variant"])


@pytest.mark.slow
def test_every_part_has_its_rows_and_the_last_line_its_ratios(training, quadrants, tmp_path):
    settings = tiny(training, quality=training.Quality(images=64, epochs=1, held_out=16))
    table = training.measure(settings, quadrants)
    assert set(table["part"]) == {*training.PARTS, "quality"}
    step = variants(table, "step")
    assert step[:3] == ["torchattacks", "torchattacks, channels-last", "advdpnp fp32"]
    assert step[3] in ("advdpnp bf16", "advdpnp bf16 emulated")
    assert step[4:] == ["advdpnp compiled"]
    assert len(variants(table, "data")) == 5
    assert variants(table, "methods") == list(training.METHODS)
    assert variants(table, "rivals") == ["dpp step", "dpp loss alone", "dpnp step", "dpnp loss alone"]
    assert variants(table, "quality") == ["torchattacks fp32", "advdpnp fp32", "advdpnp bf16"]
    timed = table[(table["part"] != "quality") & (table["variant"] != "advdpnp compiled")]
    assert (timed[["ms", "cpu_ms", "relative"]] > 0).all(axis=None)
    assert (table[table["part"] == "quality"]["pgd_20"].between(0, 100)).all()
    training.report(settings, quadrants, table, "python -m benchmarks.training").publish(tmp_path / "made")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "made" / "training.csv"), table, atol=1e-3)
    last = (tmp_path / "made" / "training.md").read_text(encoding="utf-8").splitlines()[-1]
    assert last.startswith("ratios: small-cnn advdpnp fp32")
    assert "adv-dpnp" in last


def test_times_are_per_step_and_relative_to_the_reference_in_the_same_turn(timing):
    turn = timing.Turn
    slow, fast = [turn(4.0, 2.0), turn(40.0, 2.0), turn(4.0, 2.0)], [turn(2.0, 1.0), turn(20.0, 1.0), turn(2.0, 1.0)]
    found = timing.summary(fast, slow)
    assert (found["ms"], found["ms_highest"], found["cpu_ms"]) == (2000, 20000, 1000)
    assert (found["relative"], found["cpu_relative"]) == (0.5, 0.5)


def test_an_empty_cell_stays_empty(timing):
    table = pd.DataFrame([{"part": "step", "ms": 1.0, "note": math.nan}, {"part": "step", "ms": math.nan, "note": "x"}])
    assert "nan" not in timing.as_markdown(table)


@pytest.mark.parametrize(("changes", "message"), [({"parts": ("nothing",)}, "no part"), ({"batch": 96}, "images")])
def test_what_cannot_be_measured_is_one_sentence(training, quadrants, changes, message):
    with pytest.raises(AdvdpnpError, match=message):
        training.measure(tiny(training, **changes), quadrants)


@pytest.mark.slow
def test_the_script_for_a_gpu_can_be_rehearsed_on_the_processor(tmp_path):
    try:
        load_dataset("cifar10", train=False)
    except AdvdpnpError:
        pytest.skip("needs CIFAR-10")
    environment = {**os.environ, "REHEARSE": "1", "PYTHON": sys.executable, "LIMIT": "1800"}
    script = [str(REPOSITORY / "benchmarks" / "gpu.sh"), str(tmp_path)]
    done = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for part in ("autoattack", "pgd-20"):
        table = pd.read_csv(tmp_path / f"{part}.csv")
        assert (table["ratio"].iloc[:2] > 0).all()
        assert table["variant"].iloc[0] == "advdpnp"
        assert table["robust"].between(0, table["images"]).all()
    assert set(pd.read_csv(tmp_path / "training.csv")["part"]) == {"step"}
    assert (pd.read_csv(tmp_path / "corruptions.csv")["seconds"] > 0).all()
    for part in ("autoattack", "pgd-20", "training", "corruptions"):  # with more, busy cores make it take minutes
        assert " 1 threads used" in (tmp_path / f"{part}.md").read_text(encoding="utf-8")


def test_the_script_for_a_gpu_says_that_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        [str(REPOSITORY / "benchmarks" / "gpu.sh"), str(tmp_path)], env=environment, capture_output=True
    )
    assert done.returncode == 2
    assert b"torch sees no GPU; try REHEARSE=1" in done.stderr
