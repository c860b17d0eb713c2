"""Ray itself, on this machine: workers and drivers that are killed, a machine that leaves, and nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray
from ray.cluster_utils import Cluster as RayCluster

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.config import EvaluationConfig
from advdpnp.eval.run.cluster import driver, model_course
from advdpnp.eval.run.cluster.connection import Cluster
from advdpnp.eval.run.cluster.fleet import Fleet
from advdpnp.eval.run.cluster.model_course import ModelCourse
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
COUNTED = """
import os, signal, sys
from advdpnp.cli import run
from advdpnp.eval.run.cluster import driver, model_course
from advdpnp.eval.run.cluster.model_course import ModelCourse

take = ModelCourse.take

def counted(self, answer, hello):
    yield from take(self, answer, hello)
    with open("taken.txt", "a") as file:
        file.writelines(f"{found.unit} {sample}\\n" for found in answer for sample in found.columns["sample"])
    if "DIE" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    if os.path.exists("interrupt"):
        os.remove("interrupt")
        os.killpg(0, signal.SIGINT)  # as Ctrl-C does

ModelCourse.take = counted
model_course.fewest = lambda *arguments: 1.0  # many pieces
sys.exit(run(sys.argv[1:]))
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


def test_workers_are_killed_and_machines_come_and_go(machines, net, data, tmp_path, monkeypatch):
    taken: list[tuple[str, int]] = []
    take = ModelCourse.take

    def counted(self, answer, hello):
        taken.extend((found.unit, sample) for found in answer for sample in found.columns["sample"].tolist())
        return take(self, answer, hello)

    monkeypatch.setattr(ModelCourse, "take", counted)
    monkeypatch.setattr(model_course, "fewest", lambda *arguments: 4.0)  # many pieces
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
    assert len(taken) == len(set(taken)) == 3 * len(data.test)
    assert 1 <= disturbing.last.lost <= 3  # what was at work when it happened
    assert ray.is_initialized()  # only the evaluation has ended


def test_workers_that_die_as_they_start_end_it_with_a_sentence(machines, net, data, tmp_path, monkeypatch):
    class Stillborn:
        def __init__(self, get: Any) -> None:
            os._exit(1)

        def hello(self, plan: Any) -> None: ...

    monkeypatch.setattr(driver, "Worker", Stillborn)
    config = EvaluationConfig.of(attacks="fgsm", eps=["0.05"], device="cpu")
    with pytest.raises(AdvdpnpError, match="4 workers died one after the other before they were ready"):
        run_models([as_loaded(net(), "net")], data, config, ResultsFolder(tmp_path), cluster=Cluster("auto"))


class Command:
    """``advdpnp eval`` with a net of two files beside it, in a process group of its own."""

    def __init__(self, folder: Path, out: str, *more: str, **environment: str) -> None:
        words = [
            "eval", "--dataset", "digits", "--attacks", "fgsm,autoattack", "--limit", "200", "--device", "cpu",
            "--no-sanity", "--save-adversarials", "--model", "their_nets.py:make", "--out", out, *more,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "counted.py", *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "2"} | environment, text=True, start_new_session=True,
        )  # fmt: skip

    def kill_a_worker(self) -> None:
        """In the middle of a piece."""

        def kill() -> bool:
            busy = named(children(self.process.pid), "ray::Worker.do")
            if busy:
                os.kill(busy[0], signal.SIGKILL)
            return bool(busy) or self.ended()

        wait_until(kill)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=600)
        return self.process.returncode, said


@pytest.fixture
def own_code(tmp_path: Path) -> None:
    """A net in two files, and the command that counts."""
    for name, text in (("their_nets", NETS), ("their_layers", LAYERS), ("counted", COUNTED)):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")


@pytest.mark.usefixtures("own_code")
def test_a_command_continues_after_every_kind_of_death_and_searches_nothing_twice(tmp_path):
    on_ray = tmp_path, "cluster", "--cluster", "local"

    stopped = Command(*on_ray)
    taken = tmp_path / "taken.txt"

    def by_autoattack() -> bool:
        return taken.exists() and taken.read_text(encoding="utf-8").count("\n") > 2 * 200

    wait_until(lambda: by_autoattack() or stopped.ended())
    stopped.kill_a_worker()  # its piece runs again
    (tmp_path / "interrupt").touch()  # after the next piece, when all that is stored is counted
    code, said = stopped.end()
    assert code == 2, said
    assert "Traceback" not in said
    assert "raylet" not in said  # what Ray prints of a worker that died
    assert said.strip().splitlines()[-1].startswith("advdpnp: stopped; finished work is kept")

    killed = Command(*on_ray, DIE="yes")  # as soon as it has stored something
    below = set[int]()
    wait_until(lambda: below.update(children(killed.process.pid)) or killed.ended())
    code, said = killed.end()
    assert code == -signal.SIGKILL, said
    wait_until(lambda: not named(list(below), "ray::Worker"), 60)

    code, said = Command(*on_ray).end()
    assert code == 0, said
    assert "authentication" not in said
    assert "core_worker" not in said
    assert (tmp_path / "cluster" / "ray.log").exists()
    counted = taken.read_text(encoding="utf-8").split("\n")
    assert len(counted) == len(set(counted)) == 3 * 200 + 1  # clean, fgsm and AutoAttack, and an empty line

    code, said = Command(tmp_path, "alone").end()
    assert code == 0, said
    assert_same(tmp_path / "cluster", tmp_path / "alone")
    assert data_files(tmp_path / "cluster") == data_files(tmp_path / "alone")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address, from outside, of a cluster of one machine with two cores."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, client = one.getsockname()[1], other.getsockname()[1]
    words = [
        "start", "--head", "--block", "--num-cpus", "2", "--include-dashboard", "false", "--disable-usage-stats",
        "--object-store-memory", str(STORE), "--port", str(port), "--ray-client-server-port", str(client),
    ]  # fmt: skip
    patient = {"RAY_AUTH_MODE": "disabled", "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "180"}
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words], cwd=tmp_path, env=os.environ | patient,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip

    def answers() -> bool:
        assert process.poll() is None, "Ray has ended"
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", client), timeout=1.0).close()
            return True
        return False

    wait_until(answers)
    try:
        yield f"ray://127.0.0.1:{client}"
    finally:
        below = children(process.pid)
        process.terminate()  # which ends what it has started
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        for pid in [process.pid, *below]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


@pytest.mark.usefixtures("own_code")
def test_a_command_outside_of_a_cluster_uses_it_and_leaves_it(server, tmp_path):
    for out in ("first", "second"):
        code, said = Command(tmp_path, out, "--cluster", server, RAY_AUTH_MODE="disabled").end()
        assert code == 0, said
    assert Command(tmp_path, "alone").end()[0] == 0
    for out in ("first", "second"):
        assert data_files(tmp_path / out) == data_files(tmp_path / "alone")


def data_files(out: Path) -> dict[str, bytes]:
    """Verdicts and adversarial images, as they are on disk."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}
