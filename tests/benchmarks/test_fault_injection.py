"""The fault injection sees what is lost; a quick part runs here, ``python -m benchmarks.fault_injection`` runs all."""

import importlib
import json
import os
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import advdpnp
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import folder_lock, write_text
from advdpnp.cli import run
from advdpnp.eval.store.key import EvaluationKey
from advdpnp.eval.store.model_folder import open_model
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.schema import FOUND

REPOSITORY = Path(advdpnp.__file__).resolve().parent.parent
UNIT = EvaluationKey("pgd-20", "d" * 64, ThreatModel.parse("linf", "8/255"), {"seed": 0})


@pytest.fixture
def script(monkeypatch):
    """Scripts are no part of the installed package."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    return lambda name: importlib.import_module(f"benchmarks.fault_injection.{name}")


@pytest.fixture
def disk(script, tmp_path):
    """A disk of its own, to fill and to protect."""
    full_disk = script("full_disk")
    if not full_disk.can_mount(tmp_path):
        pytest.skip("only root may mount")
    with full_disk.small_disk(tmp_path / "disk", 16 * 1024) as made:
        yield made


def write_results(
    folder: Path, *, margin: float = 1.0, weight: float = 1.0, clean: str = "90.00", day: int = 1
) -> None:
    """One of each kind of file; the day changes all times and nothing else."""
    samples = np.arange(4)
    columns = {name: np.zeros(4, dtype=FOUND.field(name).type.to_pandas_dtype()) for name in FOUND.names}
    columns |= {"sample": samples, "margin": np.full(4, margin, np.float32), "norm": np.full(4, np.inf)}
    facts = {"dataset": "digits", "date": f"2030-01-0{day}", "versions": {}}
    with open_model(folder, ModelRecord("net", "ab" * 32)) as model, model.writer(UNIT, samples, facts) as writer:
        writer.add(columns, np.arange(2), np.zeros((2, 1, 2, 2)), np.ones((2, 1, 2, 2)))
    write_text(folder / "leaderboard.csv", f"model,clean,date,seconds\nnet,{clean},2030-01-0{day},{day}\n")
    header = {"advdpnp": json.dumps({"metrics": {"clean": 1, "seconds": day}})}
    save_file({"weight": torch.full((2,), weight)}, folder / "best.safetensors", metadata=header)


@pytest.mark.parametrize(
    ("change", "files"),
    [
        ({"day": 2}, []),
        ({"margin": 1.0000001}, ["attacks.parquet"]),
        ({"weight": 1.0000001}, ["best.safetensors"]),
        ({"clean": "90.01"}, ["leaderboard.csv"]),
    ],
)
def test_what_is_lost_or_changed_is_seen_and_times_are_not(script, tmp_path, change, files):
    commands, bench = script("commands"), script("bench")
    write_results(tmp_path / "one")
    write_results(tmp_path / "other", **change)
    one, other = (commands.what_is_left(tmp_path / name) for name in ("one", "other"))
    assert len(one) == 6
    found = bench.differences(one, other)
    assert len(found) == len(files)
    assert all(file in name for file, name in zip(files, found, strict=True))
    assert bench.differences(one, {}) == sorted(one)


def test_unfinished_files_are_seen(script, tmp_path):
    commands = script("commands")
    write_results(tmp_path)
    assert commands.left_over(tmp_path) == []
    left = ["net-abababab/.x.parquet.abcdefgh.tmp"]
    for name in left:
        (tmp_path / name).write_bytes(b"")
    assert commands.left_over(tmp_path) == left


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(disk):
    write_text(disk.path / "table.csv", "old")
    with pytest.raises(AdvdpnpError, match=r"the disk is full, .*table.csv was not written; free some space"):
        write_text(disk.path / "table.csv", "new" * 10_000)
    assert (disk.path / "table.csv").read_text() == "old"
    assert os.listdir(disk.path) == ["table.csv"]


def test_a_read_only_folder_is_one_sentence_and_can_be_read(disk, capsys, tmp_path):
    disk.grow()
    write_results(disk.path / "results")
    disk.write_protect(True)
    with pytest.raises(AdvdpnpError, match=r"cannot write .*Read-only"), folder_lock(disk.path / "results"):
        pass
    assert run(["leaderboard", str(disk.path / "results")]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert run(["leaderboard", str(disk.path / "results"), "--out", str(tmp_path / "table")]) == 0
    assert pd.read_csv(tmp_path / "table" / "leaderboard.csv")["model"].tolist() == ["net"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks with threads")
def test_killed_and_stopped_once_each_command_ends_as_if_undisturbed(script, save_npz, tmp_path, monkeypatch):
    faults, bench = script("faults"), script("bench")
    words = [f"npz:{save_npz(600, 1)}" if word == "digits" else word for word in faults.JOBS["train"].words]
    monkeypatch.setitem(faults.JOBS, "train", replace(faults.JOBS["train"], words=tuple(words)))  # images of 8x8
    monkeypatch.setattr(faults, "KILLS", 1)
    monkeypatch.setattr(faults, "STOPPING", faults.STOPPING[:1])
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    undisturbed, draw = bench.Bench(tmp_path), random.Random(0)
    rows = [row for name in ("train", "eval", "leaderboard") for row in faults.kills(undisturbed, draw, name)]
    rows += list(faults.signals(undisturbed, draw))
    assert len(rows) == 7
    assert [row for row in rows if row["passes"] != "yes"] == []
    shutil.rmtree(tmp_path)
