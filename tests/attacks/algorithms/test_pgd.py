"""FGSM, PGD and the margin attack: against the closed form, against torchattacks, and in training."""

from dataclasses import replace

import pytest
import torch

from advdpnp.attacks import ThreatModel
from advdpnp.attacks.algorithms import pgd as module
from advdpnp.attacks.algorithms.pgd import PGD, perturb
from advdpnp.base.compat import import_torchattacks
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import Draw


def linear_case(linear, seed=0):
    """Images well inside the box, so that the optimum is closed form: |value| / |w|_1 (Linf), |value| / |w|_2 (L2)."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(3 * 8 * 8, generator=generator)
    x = 0.4 + 0.2 * torch.rand(37, 3, 8, 8, generator=generator)
    b = -(x.flatten(1) @ w).median() - 0.05
    model = linear(w, b)
    value = model.value(x.double())
    return model, x, (value < 0).long(), value.abs(), w.double()


@pytest.mark.parametrize("name", ["fgsm", "pgd-20", "cw"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_succeeds_exactly_where_the_closed_form_optimum_is_within_eps(linear, attack, find, name, norm):
    model, x, y, value, w = linear_case(linear)
    optimum = value / (w.abs().sum() if norm == "linf" else w.norm())
    eps = float(optimum.median())
    found = find(model, attack(name, eps, norm, classes=2), x, y)
    assert bool(found.success[optimum < 0.97 * eps].all())
    assert not bool(found.success[optimum > 1.001 * eps].any())
    assert 10 < int(found.success.sum()) < 30
    assert bool((found.norm[found.success] >= optimum[found.success] * 0.999).all())


def same_iterates(model, x, y, steps, monkeypatch):
    """Largest difference between our iterates and torchattacks' in float64, from one start, with one step size."""
    model, x = model.double(), x.double()
    threat = ThreatModel.parse("linf", "8/255")
    reference = import_torchattacks().PGD(model, eps=8 / 255, alpha=2 / 255, steps=steps, random_start=True)
    starts = []
    clamp = torch.clamp

    def spy(values, *args, **kwargs):
        out = clamp(values, *args, **kwargs)
        if not starts:
            starts.append(out.clone())
        return out

    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "clamp", spy)
        theirs = reference(x, y)
    torch.random.set_rng_state(state)
    assert not torch.equal(starts[0], x)
    monkeypatch.setattr(module, "random_start", lambda *_: starts[0])
    ours = perturb(model, x, y, PGD(threat, steps=steps, step_size=2 / 255), Draw.of(0, torch.arange(len(x))))
    return float((ours - theirs).abs().max()), float((ours - starts[0]).abs().max())


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_iterates_equal_those_of_torchattacks(net, images, labels, steps, monkeypatch):
    difference, moved = same_iterates(net, images, labels, steps, monkeypatch)
    assert difference < 1e-6
    assert moved > 1e-3


def test_iterates_equal_those_of_torchattacks_on_a_real_net(real_net, real_images, monkeypatch):
    difference, moved = same_iterates(real_net, *real_images, 20, monkeypatch)
    assert difference < 1e-6
    assert moved > 1e-3


@pytest.mark.parametrize("name", ["pgd-10", "cw"])
@pytest.mark.parametrize("shift", [-1000.0, 0.0])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_margin_verdicts_ignore_shift_and_scale_of_the_logits(
    net, images, labels, affine, attack, find, name, shift, scale
):
    attack = attack(name, 0.01)
    attack = replace(attack, objective="margin", random_start=True)
    net.double()  # in float32 a shift by 1000 rounds the logits themselves
    plain = Float32(net)
    found = find(plain, attack, images, labels)
    other = find(affine(plain, scale, shift), attack, images, labels)
    assert 5 < int(found.success.sum()) < len(images)
    assert torch.equal(found.success, other.success)


class Float32(torch.nn.Module):
    """A float64 model for float32 images."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.double())


def test_scaled_logits_give_zero_gradients_and_are_reported(net, images, labels, affine, attack, find):
    found = find(affine(net, 1000.0), attack("fgsm"), images, labels)
    assert int(found.zero_gradient.sum()) > 10
    rescaled = replace(attack("fgsm"), objective="rescaled-ce")
    assert not bool(find(affine(net, 1000.0), rescaled, images, labels).zero_gradient.any())


def test_all_iterates_count_the_random_start_and_the_last_one_too(net, images, labels, attack, find):
    base = replace(attack("pgd-1", 0.3), step_size=1e-9)  # only the random start can succeed
    assert int(find(net, base, images, labels).success.sum()) > 5
    only_last = replace(attack("fgsm", 0.05))  # FGSM's only new image is its last
    assert int(find(net, only_last, images, labels).success[5:].sum()) > 5


def test_more_restarts_and_more_steps_never_lose_successes(net, images, labels, attack, find):
    one = find(net, replace(attack("pgd-3", 0.006)), images, labels)
    three = find(net, replace(attack("pgd-3", 0.006), restarts=3), images, labels)
    ten = find(net, replace(attack("pgd-10", 0.006)), images, labels)
    assert bool((three.success | ~one.success).all())
    assert int(ten.success.sum()) >= int(one.success.sum())
    assert int(three.forwards.max()) > 2 * int(one.forwards.max())


def test_every_restart_starts_somewhere_else(net, images, labels, attack):
    made = replace(attack("pgd-1", 0.1), restarts=3, step_size=0.0)
    state = made.start(images, labels, None, Draw.of(0, torch.arange(60)))
    starts = [state.x_adv]
    for _ in range(3):
        state = made.tell(state, net(images), torch.zeros_like(images), state.done)
        starts.append(state.x_adv)
    first, stayed, second, _ = starts
    torch.testing.assert_close(first, stayed)
    assert float((second - first).abs().mean()) > 0.03


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_perturb_stays_in_the_threat_model_and_raises_the_loss(net, images, labels, norm):
    threat = ThreatModel.parse(norm, "8/255" if norm == "linf" else 0.5)
    x_adv = perturb(net, images, labels, PGD(threat, steps=7), Draw.of(1, torch.arange(60)))
    assert bool(threat.contains(images, x_adv).all())
    loss = torch.nn.functional.cross_entropy
    assert loss(net(x_adv), labels) > loss(net(images), labels) + 0.1


def test_perturb_changes_neither_mode_nor_gradients_and_works_under_no_grad(net, images, labels):
    net.train()
    net[0].eval()
    attack = PGD(ThreatModel.parse("linf", 0.1), steps=2)
    with torch.no_grad():
        x_adv = perturb(net, images, labels, attack, Draw.of(1, torch.arange(60)))
    assert not x_adv.requires_grad
    assert [m.training for m in net] == [False] + [True] * 6
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_perturb_of_a_sample_does_not_depend_on_its_batch_order(net, images, labels):
    attack, order = PGD(ThreatModel.parse("linf", 0.1), steps=3), torch.randperm(60)
    straight = perturb(net, images, labels, attack, Draw.of(1, torch.arange(60)))
    shuffled = perturb(net, images[order], labels[order], attack, Draw.of(1, order))
    torch.testing.assert_close(shuffled, straight[order])


def test_an_l1_threat_and_nonsense_steps_are_refused(attack):
    with pytest.raises(AdvdpnpError, match=r"does not support l1, only linf, l2; for l1 use apgd-ce, apgd-t"):
        attack("pgd-20", 1.0, "l1")
    for name in ("pgd-0", "pgd-x", "pgd--3", "pgd-²"):
        with pytest.raises(AdvdpnpError, match="number of steps"):
            attack(name)
