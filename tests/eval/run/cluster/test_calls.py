"""Calls of one function on a cluster, and the trainings of a study, which are such calls."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from advdpnp.base.errors import AdvdpnpError
from advdpnp.cli import run
from advdpnp.eval.run.cluster.calls import run_calls
from advdpnp.eval.run.cluster.connection import Cluster
from tests.eval.run.cluster import conftest

TINY = """
description: a tiny study
recipe: adv-dpnp
settings: [epochs=1, validation=10, validation_steps=1, attack.steps=1, "model.feature_dim=4", batch_size=512]
vary: {method.beta: [0]}
seeds: [0]
judged: 20
attacks: fgsm
"""


def divided(shared: int, call: int, device: str) -> tuple[int, str]:
    if not call:
        raise AdvdpnpError("nothing to divide by")
    return shared // call, device


def called(calls: list[int], device: str = "auto") -> dict[int, Any]:
    return dict(run_calls(Cluster(), divided, calls, shared=12, device=device, log=None))


def test_every_call_is_answered(fake):
    assert called([1, 2, 3]) == {0: (12, "cpu"), 1: (6, "cpu"), 2: (4, "cpu")}
    fake.resources["GPU"] = 1.0
    assert called([4]) == {0: (3, "cuda")}
    assert called([4], "cpu") == {0: (3, "cpu")}


def test_a_call_that_fails_is_told_after_the_others(fake):
    answers = run_calls(Cluster(), divided, [0, 3], shared=12, device="auto", log=None)
    assert next(answers) == (1, (4, "cpu"))
    with pytest.raises(AdvdpnpError, match=r"^nothing to divide by$"):
        next(answers)


def test_a_call_whose_worker_dies_runs_again_but_not_for_ever(fake):
    deaths = iter([conftest.ActorDiedError(), None])
    fake.strike_call = lambda call: next(deaths, None)
    assert called([5]) == {0: (2, "cpu")}
    fake.strike_call = lambda call: conftest.ActorDiedError()
    with pytest.raises(AdvdpnpError, match=r"4 workers died of the same work .*if memory is short"):
        called([5])


def test_what_is_not_waited_for_ends(fake):
    found = run_calls(Cluster(), divided, [1, 2, 3], shared=12, device="auto", log=None)
    next(found)
    found.close()
    assert len(fake.cancelled) == 2


@pytest.mark.slow
def test_a_study_on_a_cluster_finds_what_one_process_finds(fake, tmp_path, monkeypatch, capsys):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)

    def study(where: str, *more: str) -> tuple[pd.DataFrame, str]:
        out = tmp_path / where
        assert run(["study", str(path), "--out", str(out), "--runs", str(out / "runs"), *more]) == 0
        table = pd.read_csv(out / "tiny.csv")
        return table.drop(columns="seconds"), capsys.readouterr().out

    expected, _ = study("alone", "--device", "cpu")
    found, said = study("cluster", "--device", "cpu", "--cluster", "local")
    pd.testing.assert_frame_equal(found, expected)
    assert "default-s0  clean " in said
    assert "(2 of 2 trainings)" in said
    measured = Path(tmp_path / "cluster" / "runs" / "tiny" / "default-s0" / "judged.json")
    assert json.loads(measured.read_text())["measured"]["clean"] == pytest.approx(found["clean"][0])
    shutil.rmtree(measured.parent)  # only this one is trained again
    _, said = study("cluster", "--device", "cpu", "--cluster", "local")
    assert "(1 of 1 trainings)" in said
