"""The engine on an accelerator that is simulated, with graphs: the results of a CPU; launches may only fall."""

import importlib
from collections import Counter
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from advdpnp.attacks import ATTACKS, ThreatModel
from advdpnp.attacks.algorithms.eot import ExpectationOverTransformation
from advdpnp.attacks.algorithms.pgd import PGD
from advdpnp.attacks.algorithms.square import Square
from advdpnp.attacks.criteria import Targeted
from advdpnp.attacks.engine import capture, scheduler
from advdpnp.attacks.ensemble import AttackEnsemble


class Overshooting(PGD):
    """Every other query is twice as far from the clean image: often a success, and never one that counts."""

    def ask(self, state: Any) -> Any:
        queries, loss = super().ask(state)
        far = (state.step % 2 == 1).view(-1, 1, 1, 1)
        return torch.where(far, (2 * queries - state.x).clamp(0, 1), queries), loss


def made(name: str, norm: str, eps: float, **changes: Any) -> Any:
    return replace(ATTACKS.make(name, threat=ThreatModel.parse(norm, eps), classes=10), **changes)


CASES = {
    "fgsm": made("fgsm", "linf", 0.01),
    "pgd": made("pgd-7", "linf", 0.01),
    "pgd-l2-restarts": made("pgd-5", "l2", 0.2, restarts=2),
    "cw": made("cw", "linf", 0.008),
    "apgd-ce": made("apgd-ce", "linf", 0.01, iterations=10),
    "apgd-ce-l2": made("apgd-ce", "l2", 0.2, iterations=9),
    "apgd-dlr-restarts": made("apgd-dlr", "linf", 0.008, iterations=3, runs=4),
    "apgd-t": made("apgd-t", "linf", 0.008, iterations=9, runs=3),
    "apgd-targeted": made("apgd-ce", "linf", 0.015, iterations=8).targeted(Targeted("random")),
    "apgd-l1": made("apgd-t", "l1", 1.5, iterations=5, runs=2),
    "fab-t": made("fab-t", "linf", 0.008, iterations=5, runs=3),
    "fab-t-l2": made("fab-t", "l2", 0.2, iterations=5, runs=2),
    "fab-targeted": made("fab-t", "linf", 0.02, iterations=6).targeted(Targeted("next")),
    "square": made("square", "linf", 0.02, queries=19),
    "square-l2": made("square", "l2", 0.5, queries=18),
    "cw-l2": made("cw-l2", "l2", 0.4, searches=2, iterations=6),
    "eot": ExpectationOverTransformation(made("apgd-ce", "linf", 0.01, iterations=4, runs=2), 2),
    "overshooting": Overshooting(ThreatModel.parse("linf", 0.008), steps=7),
    "ensemble": AttackEnsemble(
        "two", (made("apgd-ce", "linf", 0.008, iterations=6), Square(ThreatModel.parse("linf", 0.008), 17))
    ),
}


@pytest.fixture
def exact(make_net, rounded):
    """Computes in float64 and answers in float32, so that no batch size and no copy shows."""
    return rounded(make_net(10))


@pytest.fixture
def replays(sim, monkeypatch):
    """Iterations become graphs after the first two, and every look comes after two. Counts what is replayed."""
    counter = Counter[str]()
    record = sim.record

    def counting(work: Any) -> Any:
        replay = record(work)

        def counted() -> None:
            counter["replays"] += 1
            replay()

        return counted

    monkeypatch.setattr(sim, "record", counting)
    monkeypatch.setitem(capture.GRAPHS, "sim", lambda device: sim)
    monkeypatch.setattr(capture, "PLAIN", 2)
    monkeypatch.setattr(scheduler, "_LOOK_EVERY_ELSEWHERE", 2)
    capture._say.cache_clear()
    return counter


@pytest.mark.parametrize("name", CASES)
def test_graphs_give_the_results_of_the_cpu_and_no_iteration_waits(
    name, exact, images, labels, find, sim, replays, caplog
):
    attack = CASES[name]
    images, labels = images[:40], labels[:40]
    expected = find(exact, attack, images, labels, static_batch_size=32)
    found = find(exact.to(sim.device), attack, images, labels, static_batch_size=32, device="sim")
    assert 0 < int(expected.success[5:].sum()) < 35
    for field in fields(found):
        assert torch.equal(getattr(found, field.name), getattr(expected, field.name)), field.name
    assert replays["replays"] > 0
    assert not caplog.records


class Reading(torch.nn.Module):
    """Reads a value of the device in each call."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(x)
        return logits if float(logits.sum()) < torch.inf else -logits


def test_a_net_that_cannot_be_captured_runs_plainly_and_the_log_says_so_once(
    exact, images, labels, find, sim, replays, caplog
):
    net, attack, images, labels = Reading(exact), CASES["apgd-t"], images[:40], labels[:40]
    expected = find(net, attack, images, labels, static_batch_size=32)
    net = net.to(sim.device)
    for _ in range(2):
        found = find(net, attack, images, labels, static_batch_size=32, device="sim")
        assert torch.equal(found.x_adv, expected.x_adv)
        assert torch.equal(found.forwards, expected.forwards)
    assert replays["replays"] == 0
    (said,) = caplog.messages
    assert "without graphs" in said
    assert "_local_scalar_dense" in said


def test_a_graph_that_computes_something_else_is_not_used(
    exact, images, labels, find, sim, replays, monkeypatch, caplog
):
    record = sim.record

    def wrong(work: Any) -> Any:
        record(work)
        return lambda: None

    monkeypatch.setattr(sim, "record", wrong)
    attack, images, labels = CASES["square"], images[:40], labels[:40]
    expected = find(exact, attack, images, labels, static_batch_size=32)
    found = find(exact.to(sim.device), attack, images, labels, static_batch_size=32, device="sim")
    assert torch.equal(found.x_adv, expected.x_adv)
    assert "other values" in caplog.text


def test_randomised_models_run_there(exact, images, labels, attack, find, sim):
    found = find(exact.to(sim.device), attack("pgd-3"), images[:8], labels[:8], device="sim", randomised=True)
    assert found.forwards.tolist() == [20] * 5 + [63] * 3 or int(found.success[5:].sum()) > 0


MOST = {
    "apgd-ce": (97, 23, 0.9),
    "apgd-t": (127, 38, 0.9),
    "fab-t": (117, 28, 1.0),
    "square": (56, 28, 0.8),
}
"""Launches, views and waits per forward of a batch, beside the net's own. They may only fall."""


@pytest.mark.parametrize("stage", MOST)
def test_operations_do_not_grow(stage, net, images, labels, sim):
    count = importlib.import_module("benchmarks.operations.count")
    threat = ThreatModel.parse("linf", 0.008)
    cut = {
        "apgd-ce": {"iterations": 40},
        "apgd-t": {"iterations": 20, "runs": 2},
        "fab-t": {"iterations": 9, "runs": 2},
    }
    x, y = images[5:29], labels[5:29]
    net = net.to(sim.device).requires_grad_(False)
    cost = count.measure(sim, net, count.ours(stage, x, y, threat, **cut.get(stage, {"queries": 60})))
    launches, views, waits = MOST[stage]
    assert 0 < cost.robust < 24
    assert cost.launches <= launches, cost.kernels
    assert cost.views <= views
    assert cost.waits <= waits, cost.places
