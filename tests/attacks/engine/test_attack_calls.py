"""Mistakes in an attack's own code are one sentence that names the attack, never the model."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from advdpnp.attacks import ATTACKS, ThreatModel, resolve_attacks
from advdpnp.attacks.algorithms.pgd import PGD
from advdpnp.base.errors import AdvdpnpError

THREAT = ThreatModel.parse("linf", "8/255")


@dataclass(frozen=True)
class Broken(PGD):
    """PGD with one mistake."""

    mistake: str = ""

    def start(self, x: Tensor, *rest: Any) -> Any:
        return {"x": x} if self.mistake == "a dict from start" else super().start(x, *rest)

    def ask(self, state: Any) -> Any:
        queries, loss = super().ask(state)
        if self.mistake == "raises in ask":
            raise ValueError("boom")
        whole = {"images alone": queries, "a name for the loss": (queries, "ce"), "nothing": None,
                 "raises in the loss": (queries, lambda logits: logits + "a"),
                 "a number for the loss": (queries, lambda logits: 1.0)}  # fmt: skip
        if self.mistake in whole:
            return whole[self.mistake]
        wrong = {"a row less": queries[:-1], "uint8": (255 * queries).to(torch.uint8), "numpy": queries.numpy()}
        return wrong.get(self.mistake, queries * torch.nan if self.mistake == "NaN" else queries), loss

    def tell(self, *given: Any) -> Any:
        if self.mistake == "no state from tell":
            return None
        state = super().tell(*given)
        if self.mistake == "raises in tell":
            return state + 1
        wrong = {"one truth for all": True, "a row less done": state.done[1:], "float done": state.done.float()}
        return replace(state, done=wrong[self.mistake]) if self.mistake in wrong else state


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ("raises in ask", "the attack 'own' fails in ask: ValueError: boom; fix its code"),
        ("images alone", r"returns torch.float32 of shape .* from ask; return two things: the images, and the loss"),
        ("a name for the loss", r"returns torch.float32 of shape .*, str from ask; return two things"),
        ("nothing", "the attack 'own' returns NoneType from ask; return two things"),
        ("raises in the loss", "the attack 'own' fails in its loss: TypeError"),
        ("a number for the loss", "the loss of the attack 'own' returns float; return a tensor with one value per"),
        ("a dict from start", "the attack 'own' returns dict from start; return a subclass of State"),
        ("a row less", r"the attack 'own' returns torch.float32 of shape .* from ask; return float images of shape"),
        ("uint8", "the attack 'own' returns torch.uint8 of shape"),
        ("numpy", "the attack 'own' returns ndarray from ask"),
        ("NaN", "the attack 'own' queries images that contain NaN"),
        ("no state from tell", "the attack 'own' returns NoneType from tell; return the next PGDState"),
        ("raises in tell", "the attack 'own' fails in tell: TypeError: unsupported operand"),
        ("one truth for all", "a state from tell whose 'done' is bool; make it a tensor with one row for each"),
        ("float done", r"a state from tell whose 'done' is torch.float32 of shape .*; make it bool"),
        ("a row less done", r"whose 'done' is torch.bool of shape .*; make it a tensor with one row for each"),
    ],
)
def test_a_mistake_of_an_attack_names_the_attack(net, images, labels, find, mistake, sentence):
    with pytest.raises(AdvdpnpError, match=sentence):
        find(net, Broken(THREAT, steps=2, name="own", mistake=mistake), images, labels)


@dataclass(frozen=True)
class Careless(PGD):
    """PGD that writes into what its state holds of the clean images or their labels."""

    way: str = ""

    def tell(self, state: Any, *given: Any) -> Any:
        told = super().tell(state, *given)
        if self.way == "replaces x":
            return replace(told, x=told.x_adv)
        if self.way == "adds to x":
            told.x.add_(0.5).clamp_(0, 1)
        return replace(told, y=(told.y + 1) % 10) if self.way == "replaces y" else told


@pytest.mark.parametrize("way", ["replaces x", "adds to x", "replaces y"])
@pytest.mark.parametrize("steps", [1, 20])
def test_an_attack_that_changes_the_images_or_labels_is_named(net, images, labels, find, way, steps):
    before = images.clone(), labels.clone()
    with pytest.raises(AdvdpnpError, match=f"the attack 'own' changes '{way[-1]}' of its state, which holds the "):
        find(net, Careless(THREAT, steps=steps, name="own", way=way), images, labels)
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize("way", ["replaces x", "adds to x", "replaces y"])
def test_the_engine_judges_by_its_own_images_and_labels(net, images, labels, find, monkeypatch, way):
    monkeypatch.setattr("advdpnp.attacks.engine.attack_calls.check_unchanged", lambda *given: None)
    found = find(net, Careless(THREAT, steps=20, name="own", way=way), images, labels)
    assert bool(found.success.any())
    assert bool(THREAT.contains(images, found.x_adv).all())
    assert torch.equal(found.norm[found.success], THREAT.distance(images, found.x_adv)[found.success])
    with torch.no_grad():
        assert torch.equal(net(found.x_adv).argmax(1) != labels, found.success)


def test_queries_that_the_attack_writes_into_when_told_were_kept(net, images, labels, find):
    class InPlace(PGD):
        def tell(self, state: Any, *given: Any) -> Any:
            told = super().tell(state, *given)
            state.x_adv.fill_(0.5)
            return told

    found = find(net, InPlace(THREAT, steps=2, name="own"), images, labels)
    assert torch.equal(found.x_adv, find(net, PGD(THREAT, steps=2, name="own"), images, labels).x_adv)


def test_queries_may_require_gradients(net, images, labels, find):
    class WithGradient(PGD):
        def ask(self, state: Any) -> Any:
            queries, loss = super().ask(state)
            return queries.requires_grad_(), loss

    found = find(net, WithGradient(THREAT, steps=2, name="own"), images, labels)
    assert not found.x_adv.requires_grad
    assert torch.equal(found.x_adv, find(net, PGD(THREAT, steps=2, name="own"), images, labels).x_adv)


def test_float64_queries_are_evaluated_as_float32(net, images, labels, find):
    class Double(PGD):
        def ask(self, state: Any) -> Any:
            queries, loss = super().ask(state)
            return queries.double(), loss

    found = find(net, Double(THREAT, steps=2, name="own"), images, labels)
    assert torch.equal(found.x_adv, find(net, PGD(THREAT, steps=2, name="own"), images, labels).x_adv)


@pytest.mark.parametrize(
    ("built", "sentence"),
    [
        (object(), "'test-broken' builds object, which is no attack"),
        (Broken(THREAT, name="test-broken", step_size=torch.ones(1)), "definition .* 'test-broken' is not JSON"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_attack_is_refused_before_the_search(monkeypatch, built, sentence):
    monkeypatch.setattr(ATTACKS, "_entries", dict(ATTACKS._entries))
    ATTACKS.register("test-broken", description="a test")(lambda threat, classes: built)
    with pytest.raises(AdvdpnpError, match=sentence):
        resolve_attacks("test-broken", THREAT, 10)
