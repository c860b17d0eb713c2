"""The engine on an accelerator that is simulated: the results of a CPU, and launches and waits that may only fall."""

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
from advdpnp.attacks.engine.iteration import Iteration
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.base.randomness import Draw


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


WARM_UP = 2  # iterations of an attack that may make constants; graphs are captured after some, too


@pytest.fixture
def captured(sim, monkeypatch):
    """Iterations after the first are refused what a graph cannot capture: waits, memory of the host, other shapes."""
    shapes: dict[Any, Any] = {}
    done = Counter[Iteration]()
    step = Iteration.step

    def watched(self: Iteration, executor: Any, chunk: Any, **how: Any) -> Any:
        done[self] += chunk.active.device == sim.device
        if chunk.active.device != sim.device or done[self] <= WARM_UP:
            return step(self, executor, chunk, **how)
        with sim.capturing():
            after = step(self, executor, chunk, **how)
        before = shapes.setdefault(self, [leaf.shape for leaf in leaves(chunk)])
        assert before == [leaf.shape for leaf in leaves(after)]
        return after

    monkeypatch.setattr(Iteration, "step", watched)
    return sim


def leaves(rows: Any) -> list[torch.Tensor]:
    if isinstance(rows, torch.Tensor):
        return [rows]
    values = [rows.key] if isinstance(rows, Draw) else [getattr(rows, field.name) for field in fields(rows)]
    return [leaf for value in values for leaf in leaves(value)]


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_the_cpu_and_no_iteration_waits(name, exact, images, labels, find, captured):
    attack = CASES[name]
    images, labels = images[:40], labels[:40]
    expected = find(exact, attack, images, labels, static_batch_size=32)
    found = find(exact.to(captured.device), attack, images, labels, static_batch_size=32, device="sim")
    assert 0 < int(expected.success[5:].sum()) < 35
    for field in fields(found):
        assert torch.equal(getattr(found, field.name), getattr(expected, field.name)), field.name


def test_randomised_models_run_there(exact, images, labels, attack, find, sim):
    found = find(exact.to(sim.device), attack("pgd-3"), images[:8], labels[:8], device="sim", randomised=True)
    assert found.forwards.tolist() == [20] * 5 + [63] * 3 or int(found.success[5:].sum()) > 0


MOST = {
    "apgd-ce": (97, 23, 0.9),
    "apgd-t": (127, 38, 0.9),
    "fab-t": (104, 25, 0.5),
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
