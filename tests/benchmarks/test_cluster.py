"""The simulation of a large cluster: all work is done once, by all workers."""

import importlib
from pathlib import Path

import numpy as np
import pytest

import advdpnp


@pytest.fixture
def cluster(monkeypatch):
    """The script, which is no part of the installed package."""
    monkeypatch.syspath_prepend(str(Path(advdpnp.__file__).resolve().parent.parent))
    return importlib.import_module("benchmarks.cluster.__main__")


@pytest.fixture
def cheap(monkeypatch, cluster):
    monkeypatch.setattr(cluster, "costs", lambda: np.array([1, 20, 1000]))
    monkeypatch.setattr(cluster, "LOADING", 0.0)


def test_equal_work_keeps_workers_busy(cheap, cluster):
    row = cluster.simulate(workers=4, models=4, images=2560, seed=0)
    assert row["pieces"] >= 4
    assert row["pieces"] * row["samples of a piece"] == pytest.approx(4 * 2560, rel=0.02)
    assert 0 <= row["idle %"] < 35


def test_more_workers_than_pieces_wait(cheap, cluster):
    few, many = (cluster.simulate(workers=count, models=1, images=512, seed=0) for count in (1, 50))
    assert few["idle %"] == 0
    assert many["idle %"] > 90


def test_the_time_of_the_driver_is_measured(cluster):
    part, complete = cluster.seconds_of_driver(rows=16, parts=3)
    assert 0 < part < 1
    assert 0 < complete < 5
