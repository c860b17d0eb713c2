"""Processes side by side: they find what one finds, their errors arrive, and none outlives its parent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch

from advdpnp.attacks import AttackResult
from advdpnp.attacks.algorithms.apgd import APGD
from advdpnp.attacks.algorithms.square import Square
from advdpnp.attacks.engine import search as engine
from advdpnp.attacks.engine.processes import can_fork, run_in_processes
from advdpnp.attacks.engine.replicas import replicate
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError

THREAT = ThreatModel.parse("linf", 0.008)

pytestmark = pytest.mark.skipif(not can_fork(), reason="processes are forks, which this system does not have")


def numbers(place):
    yield from range(10 * place, 10 * place + 5)


def test_all_values_of_all_processes_arrive():
    assert sorted(run_in_processes(numbers, 3)) == [*range(5), *range(10, 15), *range(20, 25)]


def test_results_do_not_depend_on_the_number_of_processes(net, images, labels, find, monkeypatch):
    stages = AttackEnsemble("two", (APGD(THREAT, "margin", iterations=9), Square(THREAT, queries=30)))
    alone = find(net, stages, images, labels)
    asked = []
    monkeypatch.setattr(
        engine, "run_in_processes", lambda work, count: asked.append(count) or run_in_processes(work, count)
    )
    for threads in (2, 5):
        torch.set_num_threads(threads)
        found = find(net, stages, images, labels, max_active=20)
        for column in AttackResult._names():
            assert torch.equal(getattr(found, column), getattr(alone, column)), column
    assert asked == [2, 5]
    assert torch.get_num_threads() == 5


def test_processes_end_before_the_copies_that_they_use(net, images, labels, monkeypatch):
    ended = []

    def working(work, count):
        try:
            yield from run_in_processes(work, count)
        finally:
            ended.append("processes")

    @contextmanager
    def replicated(*arguments, **options):
        try:
            with replicate(*arguments, **options) as replicas:
                yield replicas
        finally:
            ended.append("copies")

    monkeypatch.setattr(engine, "run_in_processes", working)
    monkeypatch.setattr(engine, "replicate", replicated)
    torch.set_num_threads(2)
    attack, sample = Square(THREAT, queries=30), torch.arange(len(images))
    found = engine.search(net, attack, images, labels, sample, seed=0, static_batch_size=8)
    next(found)
    found.close()
    assert ended == ["processes", "copies"]


class Unsent(Exception):
    def __reduce__(self):
        raise TypeError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AdvdpnpError("the logits hold NaN"), AdvdpnpError),
        (ValueError("the logits hold NaN"), ValueError),
        (Unsent("the logits hold NaN"), RuntimeError),
    ],
)
def test_an_error_reaches_the_caller(error, expected):
    def work(place):
        yield place
        if place:
            raise error
        while True:
            time.sleep(0.01)
            yield place

    with pytest.raises(expected, match="the logits hold NaN"):
        list(run_in_processes(work, 2))
    assert not multiprocessing.active_children()


def test_a_killed_worker_raises_one_sentence():
    def work(place):
        yield place
        if place:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    with pytest.raises(AdvdpnpError, match=r"a worker process exited \(exit code -9"):
        list(run_in_processes(work, 2))


def test_a_terminated_worker_ends_the_run():
    def work(place):
        yield place
        if place:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        list(run_in_processes(work, 2))
    assert not multiprocessing.active_children()


def test_closing_the_iterator_ends_all_workers():
    def work(place):
        while True:
            yield place

    found = run_in_processes(work, 2)
    assert next(found) in (0, 1)
    assert len(multiprocessing.active_children()) == 2
    found.close()
    assert not multiprocessing.active_children()


SCRIPT = """
import os, time
from advdpnp.base.interrupts import interruptible
from advdpnp.attacks.engine.processes import run_in_processes

def work(place):
    yield os.getpid()
    time.sleep(600)

found = run_in_processes(work, 2)
with interruptible():
    try:
        print(next(found), next(found), flush=True)
        next(found)
    except KeyboardInterrupt:
        print("stopped", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_no_process_outlives_its_parent(number):
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    children = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(children) == 2
    if number == signal.SIGKILL:
        os.kill(parent.pid, number)
    else:
        os.killpg(parent.pid, number)  # terminals and SLURM signal all processes
    out, errors = parent.communicate(timeout=30)
    assert (out, errors) == ("" if number == signal.SIGKILL else "stopped\n", "")
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}/stat") and state(pid) != "Z" for pid in children):
        assert time.monotonic() < deadline, "a process has outlived its parent"
        time.sleep(0.05)


def state(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stream:
            return stream.read().rpartition(") ")[2][0]
    except OSError:
        return "Z"
