"""Scripts that measure what processes cost, Ray's on one machine and those of an attack, and compiled steps."""

import importlib
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import advdpnp
from advdpnp.cli import run as advdpnp_command

ROOT = Path(advdpnp.__file__).resolve().parent.parent


@pytest.fixture
def script(monkeypatch):
    """Scripts, which are no part of the installed package."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module


def called(main: Any, *words: str) -> None:
    import typer

    app = typer.Typer()
    app.command()(main)
    assert (found := CliRunner().invoke(app, words)).exit_code == 0, found.output


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_the_time_of_a_tree_is_that_of_its_processes(script):
    overhead = script("benchmarks.cluster.overhead")
    mine, nobody = overhead.Tree(os.getpid()), overhead.Tree(-1)
    mine.look(), nobody.look()
    assert sum(mine.seconds().values()) > 0
    assert not nobody.seconds()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_process_that_has_ended_stays_what_it_was(script, monkeypatch):
    overhead = script("benchmarks.cluster.overhead")
    tree, me = overhead.Tree(os.getpid()), (0, "1", 2.0, "workers s")
    for kind in ("workers s", ""):  # its command is gone before its times are
        monkeypatch.setattr(
            overhead, "_status", lambda path, kind=kind: (*me[:3], kind) if path.name == str(os.getpid()) else None
        )
        tree.look()
    assert tree.seconds() == {"workers s": 2.0}


def test_the_table_says_what_ray_costs_and_whether_files_are_equal(script, tmp_path, monkeypatch):
    overhead = script("benchmarks.cluster.overhead")

    def measure(words: list[str], out: Path, cores: int) -> dict[str, float]:
        out.mkdir()
        (out / "attacks.parquet").write_text("same" if cores < 4 else "other")
        return {"processor s": 100.0 + 10 * ("--cluster" in words)}

    monkeypatch.setattr(overhead, "measure", measure)
    monkeypatch.setattr(overhead.os, "cpu_count", lambda: 2)
    called(overhead.main, "net.safetensors", "--workers", "1,4", "--out", str(tmp_path / "table.csv"))
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["more %"].tolist()[1:] == pytest.approx([10, 10])
    assert table["same files"].tolist()[1:] == ["yes", "NO"]


def test_steps_of_attacks_are_timed_plain_and_compiled_on_the_rows_that_they_get(script, tmp_path, monkeypatch):
    steps, given = script("benchmarks.operations.compiled_steps"), []

    def compiled(step):  # torch.sin starts the compiler
        return step if step is torch.sin else lambda *arguments: given.append(len(arguments[1])) or step(*arguments)

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(steps, "_CALLS", 2)
    assert advdpnp_command(["train", "--recipe", "ce", "--dataset", "digits", "--epochs", "1", "--device", "cpu",
                            "--out", str(tmp_path), "--name", "net"]) == 0  # fmt: skip
    called(steps.main, str(tmp_path / "net"), "--out", str(tmp_path / "t.csv"))
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["attack"].tolist() == ["square", "apgd-ce", "pgd-20"]
    assert set(given) == set(table["rows"])
    assert (table[["net us", "plain us", "compiled us"]] > 0).all(axis=None)


@pytest.mark.slow
def test_an_attack_finds_the_same_in_our_forks_and_in_futures(script, tmp_path):
    pools = script("benchmarks.cluster.process_pools")
    assert advdpnp_command(["train", "--recipe", "ce", "--dataset", "digits", "--epochs", "1", "--device", "cpu",
                            "--out", str(tmp_path), "--name", "net"]) == 0  # fmt: skip
    called(pools.main, str(tmp_path / "net"), "--attack", "fgsm", "--limit", "24", "--out", str(tmp_path / "t.csv"))
    assert pd.read_csv(tmp_path / "t.csv")["robust"].nunique() == 1
