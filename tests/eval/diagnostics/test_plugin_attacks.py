"""Attacks of users: those that do not work are flagged, and what they declare of themselves is stored."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import advdpnp
from advdpnp.attacks import ATTACKS, AttackInfo, State, ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.datasets import Dataset
from advdpnp.eval.api import evaluate_models
from advdpnp.eval.store.reader import find_results
from advdpnp.models.loading import LoadedModel

SAYS = AttackInfo(family="pgd", loss="ce", steps=1, uses_gradients=False, cost_rank=2)


@dataclass(frozen=True)
class Noise:
    """One image of random signs, ``scale`` times eps away from the clean one."""

    threat: ThreatModel
    scale: float = 1.0
    high: float = 1.0
    info: AttackInfo | None = None

    name = "noise"
    norms = ("linf",)
    minimum_norm = False

    def definition(self) -> dict[str, Any]:
        return {"attack": "noise", "scale": self.scale}

    def start(self, x: Tensor, y: Tensor, logits: Tensor | None, draw: Any) -> State:
        return State(x, y, torch.zeros_like(y).bool(), draw)

    def ask(self, state: State) -> tuple[Tensor, None]:
        signs = state.draw.uniform(tuple(state.x.shape[1:])).sub(0.5).sign()
        return (state.x + self.scale * self.threat.eps * signs).clamp(1 - self.high, self.high), None

    def tell(self, state: State, logits: Tensor, gradient: Tensor | None, misclassified: Tensor) -> State:
        return replace(state, done=torch.ones_like(state.done))


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have ``noise`` among the attacks until the test ends, made with these arguments."""
    entries = dict(ATTACKS._entries)
    monkeypatch.setattr(ATTACKS, "_entries", entries)

    def declare(**arguments: Any) -> None:
        entries.pop("noise", None)

        @ATTACKS.register("noise", description="noise", reference="none")
        def noise(threat: ThreatModel, classes: int) -> Noise:
            return Noise(threat, **arguments)

    return declare


@pytest.mark.parametrize(
    ("scale", "eps", "raised"),
    [
        (0.0, 0.01, "unmoved"),
        (60.0, 0.005, "rejected"),  # fools the net, thirty times too far away
        (1.0, 0.005, ""),  # breaks next to nothing, by fair means
    ],
)
def test_an_attack_that_does_not_work_is_flagged(
    register: Callable[..., None], net: Callable[..., nn.Module], data: Dataset, scale: float, eps: float, raised: str
) -> None:
    register(scale=scale)
    x, y = data.test.images / 255, data.test.labels
    row = advdpnp.evaluate(net(), x, y, eps=eps, attacks="noise").row.iloc[0]
    found = row["flags"].split("; ")
    assert [code for code in found if code in ("unmoved", "rejected", "unverified")] == ([raised] if raised else [])


@pytest.mark.parametrize(("scale", "eps"), [(60.0, 0.005), (3.0, 0.0001)])  # misleading images, and harmless ones
def test_an_attack_whose_images_lie_outside_eps_says_so(
    register: Callable[..., None], net: Callable[..., nn.Module], data: Dataset, scale: float, eps: float
) -> None:
    register(scale=scale)
    found = advdpnp.evaluate(net(), data.test.images / 255, data.test.labels, eps=eps, attacks="noise")
    assert "all refused; 100.00 % outside eps or [0, 1]" in found.row["flag_details"].iloc[0]
    assert found.row["noise"].equals(found.row["clean"].rename("noise"))
    attacked = found.verdicts[(found.verdicts["attack"] == "noise") & (found.verdicts["forwards"] > 1)]
    assert len(attacked)
    assert np.allclose(attacked["norm"], scale * eps, rtol=1e-3)


def test_images_within_eps_that_leave_the_bounds_are_refused_and_their_verdicts_can_be_read(
    register: Callable[..., None], net: Callable[..., nn.Module], data: Dataset, tmp_path: Path
) -> None:
    register(high=2.0)
    model = LoadedModel(net(), "net", "0" * 64, "linear", "", 260, {})
    evaluate_models([model], data, out=tmp_path, attacks="noise", eps=[0.0001], device="cpu")
    (unit,) = [unit for unit in find_results([tmp_path]) if unit.label == "noise"]
    refused = unit.column("refused") > 0
    assert refused.any()
    assert np.isinf(unit.column("norm")[refused]).all()


def test_what_an_attack_declares_is_stored_outside_its_hash(
    register: Callable[..., None], net: Callable[..., nn.Module], data: Dataset, tmp_path: Path
) -> None:
    hashes = []
    for declared in (SAYS, None):
        register(info=declared)
        out = tmp_path / str(declared is None)
        model = LoadedModel(net(), "net", "0" * 64, "linear", "", 260, {})
        evaluate_models([model], data, out=out, attacks="noise", eps=[0.05], device="cpu")
        (unit,) = [unit for unit in find_results([out]) if unit.threat is not None]
        assert unit.attack_info == replace(declared or AttackInfo(), minimum_norm=False)
        hashes.append(unit.hash)
    assert hashes[0] == hashes[1]


def test_an_info_of_another_type_is_refused(
    register: Callable[..., None], net: Callable[..., nn.Module], data: Dataset
) -> None:
    register(info={"family": "pgd"})
    with pytest.raises(AdvdpnpError, match="the info of the attack 'noise' is a dict; it must be an advdpnp"):
        advdpnp.evaluate(net(), data.test.images / 255, data.test.labels, eps=0.05, attacks="noise")


def test_an_attack_is_refused_under_a_norm_that_it_does_not_declare(
    register: Callable[..., None], net: Callable[..., nn.Module], data: Dataset
) -> None:
    register()
    with pytest.raises(AdvdpnpError, match=r"^the attack 'noise' does not support l2, only linf$"):
        advdpnp.evaluate(net(), data.test.images / 255, data.test.labels, eps=0.5, norm="l2", attacks="noise")
