"""What a run costs on the simulated accelerator, per forward pass and beside the net's own operations."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from advdpnp.attacks import ATTACKS, AttackResult, ThreatModel, search
from advdpnp.base.compat import import_pyautoattack
from benchmarks.operations.device import Counts, SimulatedDevice

OURS, THEIRS = "advdpnp", "pyautoattack"
STAGES: dict[str, dict[str, Any]] = {
    "apgd-ce": {}, "apgd-t": {}, "fab-t": {"iterations": 20}, "square": {"queries": 200}
}  # fmt: skip
"""The stages of AutoAttack, and how they are shortened: a forward costs the same in a long search."""


@dataclass(frozen=True)
class Cost:
    """Costs of a run, beside those of the net itself.

    Attributes:
        forwards: calls of the net.
        launches, views: kernels, and operators without one, per forward.
        waits: waits per forward.
        places: waits per forward by kind and line of code.
        kernels: launches per forward by operator, those of the net included.
        robust: images that stay robust.
    """

    forwards: int
    launches: float
    views: float
    waits: float
    places: dict[str, float]
    kernels: dict[str, float]
    robust: int


def measure(sim: SimulatedDevice, net: nn.Module, run: Callable[[nn.Module], int]) -> Cost:
    """Count what ``run(net)`` does, which returns the number of robust images; ``net`` is on the device."""
    forwards, own, began = 0, Counter[str](), Counter[str]()

    def now() -> Counter[str]:
        return Counter(launches=sim.counts.launches.total(), views=sim.counts.views.total())

    def begin(*_: Any) -> None:
        nonlocal began
        began = now()

    def end(*_: Any) -> None:
        nonlocal own
        own += now() - began

    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        begin()
        if torch.is_grad_enabled() and inputs[0].requires_grad:
            inputs[0].register_hook(end)

    def after(_: nn.Module, __: tuple[Tensor, ...], logits: Tensor) -> None:
        nonlocal forwards
        forwards += 1
        end()
        if logits.requires_grad:
            logits.register_hook(begin)

    hooks = [net.register_forward_pre_hook(before), net.register_forward_hook(after)]
    sim.reset()
    try:
        robust = run(net)
    finally:
        for hook in hooks:
            hook.remove()
    counts: Counts = sim.reset()

    def each(counter: Counter[str]) -> dict[str, float]:
        return {name: count / forwards for name, count in counter.most_common()}

    return Cost(
        forwards=forwards,
        launches=(counts.launches.total() - own["launches"]) / forwards,
        views=(counts.views.total() - own["views"]) / forwards,
        waits=counts.waits.total() / forwards,
        places=each(counts.waits),
        kernels=each(counts.launches),
        robust=robust,
    )


def ours(stage: str, x: Tensor, y: Tensor, threat: ThreatModel, **changes: Any) -> Callable[[nn.Module], int]:
    """A stage of our AutoAttack on images on the CPU, (n, c, h, w), for ``measure``; ``changes`` shorten it more."""
    attack = replace(ATTACKS.make(stage, threat=threat, classes=10), **(STAGES[stage] | changes))

    def run(net: nn.Module) -> int:
        found = search(net, attack, x, y, torch.arange(len(x)), seed=0, static_batch_size=len(x), device="sim")
        return int((~AttackResult.concatenate(list(found)).success).sum())

    return run


def theirs(stage: str, x: Tensor, y: Tensor, threat: ThreatModel) -> Callable[[nn.Module], int]:
    """The same stage of pyautoattack."""
    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]

    def run(net: nn.Module) -> int:
        package = import_pyautoattack().AutoAttack(
            net, norm=norm, eps=threat.eps, version="standard", seed=0, device="sim"
        )
        package.attacks_to_run = [stage]
        package.fab.n_iter = STAGES["fab-t"]["iterations"]
        package.square.n_queries = STAGES["square"]["queries"]
        here = x.to("sim"), y.to("sim")
        found = package.run_standard_evaluation(*here)
        x_adv = found[0] if isinstance(found, tuple) else found
        with torch.no_grad():
            return int((net(x_adv).argmax(1) == here[1]).sum())

    return run
