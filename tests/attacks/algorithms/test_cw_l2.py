"""Carlini and Wagner's L2 attack: near the closed-form optimum, whatever the logits and the pixels are."""

import pytest
import torch

from advdpnp.attacks import ThreatModel
from advdpnp.attacks.algorithms.cw_l2 import CWL2
from advdpnp.base.errors import AdvdpnpError


def nearest(model, x):
    """Norm of the nearest image in the box on the other side of a linear model, float64, by bisection along the ray.

    The optimum is clamp(x + t * direction): every pixel moves along w until it meets the wall.
    """
    x, w = x.double().flatten(1), model.w.double()
    value = x @ w + model.b.double()
    direction = -value.sign()[:, None] * w
    low, high = torch.zeros(len(x), 1).double(), torch.full((len(x), 1), 100.0).double()
    for _ in range(80):
        middle = (low + high) / 2
        across = (((x + middle * direction).clamp(0, 1) @ w + model.b.double()).sign() != value.sign())[:, None]
        low, high = torch.where(across, low, middle), torch.where(across, middle, high)
    return ((x + high * direction).clamp(0, 1) - x).norm(dim=1)


def case(linear, saturated, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(3 * 8 * 8, generator=generator)
    x = torch.rand(17, 3, 8, 8, generator=generator)
    if saturated:
        x = x.round()  # every pixel exactly 0 or 1
    b = -(x.flatten(1) @ w).median() - 0.3
    model = linear(w, b, scale, shift)
    return model, x, (model.value(x) < 0).long()


@pytest.mark.parametrize(
    ("saturated", "scale", "shift"),
    [(False, 1.0, 0.0), (True, 1.0, 0.0), (True, 1.0, -100.0), (False, 1000.0, 0.0), (False, 0.001, 0.0)],
)
def test_finds_the_nearest_image(linear, find, saturated, scale, shift):
    model, x, y = case(linear, saturated, scale, shift)
    if shift < 0:
        assert bool((model(x) < 0).all())
    optimum = nearest(model, x)
    eps = float(optimum.median()) * 1.1
    found = find(model, CWL2(ThreatModel.parse("l2", eps)), x, y, static_batch_size=17)
    ratio = found.norm / optimum
    assert bool((ratio > 0.999).all())
    assert float(ratio.max()) < (1.2 if saturated else 1.1)
    assert float(ratio.mean()) < 1.02
    assert torch.equal(found.success, found.norm <= eps)
    assert 3 < int(found.success.sum()) < 17
    threat = ThreatModel.parse("l2", eps)
    assert bool(threat.contains(x, found.x_adv).all())
    assert torch.equal(found.x_adv[~found.success], x[~found.success])


def test_a_pixel_can_go_from_one_end_to_the_other(linear, find):
    """Class 1 up to a sum of 15.2 of the 16 pixels: all of them must become nearly white."""
    model, x = linear(torch.ones(16), torch.tensor(-15.2)), torch.zeros(4, 1, 4, 4)
    found = find(model, CWL2(ThreatModel.parse("l2", 4.0)), x, torch.ones(4).long(), static_batch_size=4)
    assert bool(found.success.all())
    assert float((found.norm / nearest(model, x)).max()) < 1.01


def test_a_smaller_eps_changes_successes_but_not_norms(linear, find):
    model, x, y = case(linear, False)
    small = find(model, CWL2(ThreatModel.parse("l2", 0.01), searches=3, iterations=30), x, y)
    large = find(model, CWL2(ThreatModel.parse("l2", 5.0), searches=3, iterations=30), x, y)
    assert torch.equal(small.norm, large.norm)
    assert int(small.success.sum()) < int(large.success.sum())


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_bit_identical_for_any_number_of_rows(net, rounded, images, labels, find, rows):
    net = rounded(net)  # on some processors, float32 convolutions round differently in smaller batches
    attack = CWL2(ThreatModel.parse("l2", 0.2), searches=2, iterations=60)
    first = find(net, attack, images[:12], labels[:12], static_batch_size=8, max_active=8)
    other = find(net, attack, images[:12], labels[:12], static_batch_size=8, max_active=rows)
    for name in vars(first):
        assert torch.equal(getattr(first, name), getattr(other, name)), name
    assert int(first.success.sum()) > 5


def test_under_linf_it_is_refused(attack):
    with pytest.raises(AdvdpnpError, match="'cw-l2' does not support linf"):
        attack("cw-l2", 0.1, "linf")
