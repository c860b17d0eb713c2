"""Ray itself, on this machine: workers and drivers that are killed, a machine that leaves, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray
from ray.cluster_utils import Cluster as RayCluster

from advdpnp.eval.config import EvaluationConfig
from advdpnp.eval.run.cluster.connection import Cluster
from advdpnp.eval.run.cluster.fleet import Fleet
from advdpnp.eval.run.components import Components
from advdpnp.eval.run.evaluate import run_models
from advdpnp.eval.run.progress import Progress
from advdpnp.eval.run.results import ResultsFolder
from advdpnp.eval.store.reader import find_results
from advdpnp.models.loading import as_loaded

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

STORE = 80 * 2**20  # bytes of the object store
NETS = """
import torch
from torch import nn
from their_layers import Scaled

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), Scaled(), nn.Linear(1024, 10))
"""
LAYERS = """
from torch import nn

class Scaled(nn.Module):
    def forward(self, x):
        import their_layers  # by name, when it is called
        return x * their_layers.SCALE

SCALE = 2.0
"""


def verdicts(out: Path) -> dict[str, pd.DataFrame]:
    return {unit.record.stem: unit.frame for unit in find_results([out])}


def assert_same(out: Path, expected: Path) -> None:
    one, other = verdicts(out), verdicts(expected)
    assert one.keys() == other.keys()
    for stem, frame in one.items():
        pd.testing.assert_frame_equal(frame, other[stem])


def children(pid: int) -> list[int]:
    """All descendants of a process."""
    found = []
    for path in Path("/proc").glob(f"{pid}/task/*/children"):
        try:
            direct = [int(word) for word in path.read_text().split()]
        except OSError:
            continue
        found += [each for child in direct for each in (child, *children(child))]
    return found


def named(pids: list[int], name: str) -> list[int]:
    """Those processes whose command begins so."""
    found = []
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(name.encode()):
                found.append(pid)
        except OSError:
            continue
    return found


def wait_until(condition: Callable[[], Any], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """A cluster of one machine with one core, to which others are added."""
    monkeypatch.setenv("RAY_worker_niceness", "0")  # or the workers wait for everything else on this machine
    cluster = RayCluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    )
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


class Disturbing(Progress):
    """Does something at each number of finished pieces, once."""

    def __init__(self, at: dict[int, Callable[[], None]]) -> None:
        self.at, self.last = at, Fleet(0, 0, 0, 0, None, None, 0)

    def fleet(self, fleet: Fleet) -> None:
        self.last = fleet
        for pieces in [pieces for pieces in self.at if pieces <= fleet.pieces]:
            self.at.pop(pieces)()


def test_workers_are_killed_and_machines_come_and_go(machines, net, data, tmp_path):
    config = EvaluationConfig.of(attacks="pgd-4,apgd-t", eps=["0.05"], device="cpu")
    components = Components(static_batch_size=4)
    model = as_loaded(net(), "net")

    def run(out: Path, cluster: Cluster | None, progress: Progress) -> Path:
        run_models(
            [model], data, config, ResultsFolder(out), cluster=cluster, progress=progress, components=components
        ).raise_problems()
        return out

    nodes = []

    def join() -> None:
        nodes.append(machines.add_node(num_cpus=1, object_store_memory=STORE))

    def kill() -> None:
        raylet = machines.head_node.all_processes["raylet"][0].process.pid
        for worker in named(children(raylet), "ray::Worker"):
            os.kill(worker, signal.SIGKILL)

    def leave() -> None:
        machines.remove_node(nodes.pop())

    join()
    disturbing = Disturbing({1: kill, 3: leave, 5: join})
    out = run(tmp_path / "cluster", Cluster("auto"), disturbing)
    assert_same(out, run(tmp_path / "alone", None, Progress()))
    assert not disturbing.at
    assert 1 <= disturbing.last.lost <= 3  # what was at work when it happened
    assert ray.is_initialized()  # only the evaluation has ended


def test_a_command_on_a_local_cluster_continues_after_kill_9_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "their_nets.py").write_text(NETS, encoding="utf-8")
    (tmp_path / "their_layers.py").write_text(LAYERS, encoding="utf-8")
    words = [
        "eval",
        "--dataset",
        "digits",
        "--attacks",
        "fgsm,autoattack",
        "--limit",
        "200",
        "--device",
        "cpu",
        "--no-sanity",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}

    def start(out: str, model: str, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "advdpnp", *words, "--model", model, "--out", out, *more], cwd=tmp_path,
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    killed = start("cluster", "their_nets.py:make", "--cluster", "local")
    wait_until(lambda: list((tmp_path / "cluster").rglob("autoattack*/*.parquet")) or killed.poll() is not None)
    below = children(killed.pid)
    assert named(below, "ray::Worker")
    killed.kill()
    killed.wait()
    wait_until(lambda: not named(below, "ray::Worker"), 60)
    again = start("cluster", "their_nets.py:make", "--cluster", "local")
    said, _ = again.communicate(timeout=600)
    assert again.returncode == 0, said
    assert "authentication" not in said
    assert "core_worker" not in said
    assert (tmp_path / "cluster" / "ray.log").exists()
    alone = start("alone", "their_nets:make")
    said, _ = alone.communicate(timeout=600)
    assert alone.returncode == 0, said
    assert_same(tmp_path / "cluster", tmp_path / "alone")
