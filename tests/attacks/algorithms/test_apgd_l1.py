"""Auto-PGD under L1: its projection against bisection in float64, its results against the package of its authors."""

import pytest
import torch

from advdpnp.attacks import AttackResult, ThreatModel, resolve_attacks
from advdpnp.attacks.algorithms.apgd_l1 import APGDL1, _schedule, project_to_l1_ball, sparse_direction
from advdpnp.attacks.info import describe
from advdpnp.attacks.protocol import RunOptions
from advdpnp.attacks.rows import Batch
from advdpnp.base.compat import import_pyautoattack
from advdpnp.base.errors import AdvdpnpError

CPU = torch.device("cpu")


def nearest(point, centre, radius):
    """The projection of one image by bisection of the threshold, in float64."""
    d = (point - centre).double().flatten()
    x = centre.double().flatten()
    room = torch.where(d > 0, 1 - x, x)

    def moves(threshold):
        return torch.minimum((d.abs() - threshold).clamp(min=0), room)

    low, high = 0.0, float(d.abs().max())
    if moves(0).sum() > radius:
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if moves(middle).sum() > radius else (low, middle)
    return x + moves(high if low else 0) * d.sign()


@pytest.mark.parametrize("kind", ["noise", "at the bounds", "bytes", "small", "sparse"])
@pytest.mark.parametrize("radius", [0.5, 3.0, 30.0, 1e4])
def test_the_projection_is_the_nearest_image_of_ball_and_box(kind, radius):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(7, 3, 12, 12, generator=generator)
    x = x.round() if kind == "at the bounds" else (255 * x).round() / 255 if kind == "bytes" else x
    change = torch.randn(x.shape, generator=generator) * (0.05 if kind == "small" else 1)
    if kind == "sparse":
        change = 0.7 * (torch.rand(x.shape, generator=generator) < 0.02)
    found = project_to_l1_ball(x + change, x, torch.full((7,), radius)).double().flatten(1)
    expected = torch.stack([nearest(point, centre, radius) for point, centre in zip(x + change, x, strict=True)])
    assert float((found - expected).abs().max()) < 1e-4
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert bool(((found - x.double().flatten(1)).abs().sum(1) <= radius).all())


def test_a_projection_equals_that_of_the_published_code():
    from pyautoattack.autopgd_base import L1_projection

    generator = torch.Generator().manual_seed(1)
    x, change = torch.rand(2, 9, 3, 12, 12, generator=generator)
    change = 4 * (change - 0.5)
    found = project_to_l1_ball(x + change, x, torch.full((9,), 5.0))
    assert torch.allclose(found, x + change + L1_projection(x, change, 5.0), atol=1e-4)


def test_points_inside_stay_and_each_row_has_its_own_radius():
    x = torch.full((3, 1, 2, 2), 0.5)
    points = x.clone()
    points[:, 0, 0] += torch.tensor([0.3, 0.1])
    found = project_to_l1_ball(points, x, torch.tensor([1.0, 0.2, 0.1]))
    assert torch.equal(found[0], points[0])
    assert torch.allclose(found[1, 0, 0], torch.tensor([0.7, 0.5]), atol=1e-5)
    assert torch.allclose(found[2, 0, 0], torch.tensor([0.6, 0.5]), atol=1e-5)


def test_a_step_changes_the_largest_share_of_the_gradient():
    gradient = torch.tensor([[[[4.0, -3.0], [2.0, -1.0]]]]).repeat(3, 1, 1, 1)
    found = sparse_direction(gradient, torch.tensor([0.5, 0.0, 1.0]))
    assert found[0].flatten().tolist() == [0.5, -0.5, 0, 0]
    assert found[1].flatten().tolist() == [1, 0, 0, 0]
    assert found[2].flatten().tolist() == [0.25, -0.25, 0.25, -0.25]
    assert not sparse_direction(torch.zeros(1, 1, 2, 2), torch.tensor([0.5])).any()


@pytest.mark.parametrize("iterations", [5, 40, 100])
def test_phases_have_the_radii_and_lengths_of_the_published_code(iterations):
    radii, begins, checks, ends = _schedule(iterations, CPU)
    assert len(radii) == iterations + 3
    assert radii[begins].tolist() == [3, 2, 1]
    assert int(ends.sum()) == 3
    assert bool(ends[-1])
    assert not bool((begins & checks).any())
    if iterations == 100:
        assert [int((radii == radius).sum()) - 1 for radius in (3, 2, 1)] == [30, 30, 40]


def test_succeeds_where_the_closed_form_optimum_is_within_eps(linear, find):
    """Within the box the cheapest change is to the largest weights, each as far as its bound."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(3 * 8 * 8, generator=generator)
    x = 0.4 + 0.2 * torch.rand(37, 3, 8, 8, generator=generator)
    model = linear(w, -(x.flatten(1) @ w).median() - 0.05)
    value = model.value(x.double())
    room = torch.where((w[None] > 0) == (value[:, None] < 0), 1 - x.flatten(1), x.flatten(1)).double()
    order = w.abs().argsort(descending=True)
    before = torch.cat([torch.zeros(37, 1), (room * w.abs())[:, order].cumsum(1)], 1)
    last = (before < value.abs()[:, None]).sum(1) - 1
    whole = torch.cat([torch.zeros(37, 1), room[:, order].cumsum(1)], 1).gather(1, last[:, None])[:, 0]
    rest = (value.abs() - before.gather(1, last[:, None])[:, 0]) / w.abs()[order][last]
    optimum = whole + rest
    eps = float(optimum.median())
    found = find(model, APGDL1(ThreatModel.parse("l1", eps), "ce"), x, (value < 0).long())
    assert bool(found.success[optimum < 0.9 * eps].all())
    assert not bool(found.success[optimum > 1.001 * eps].any())
    assert int(found.refused.sum()) == 0


def test_robust_counts_are_those_of_the_published_code(net, images, labels, attack, find):
    x, y = images[5:19], labels[5:19]
    ours = find(net, attack("apgd-ce", 1.0, "l1"), x, y)
    theirs = attack("pyautoattack:apgd-ce", 1.0, "l1").run(
        net, Batch(x, y, torch.arange(14)), RunOptions(seed=0, batch_size=14)
    )
    reference = AttackResult.concatenate([item for item in theirs if isinstance(item, AttackResult)])
    assert 2 < int(reference.success.sum()) < 12
    assert abs(int(ours.success.sum()) - int(reference.success.sum())) <= 2
    assert bool(attack("apgd-ce", 1.0, "l1").threat.contains(x, ours.x_adv).all())


def test_names_under_l1(attack):
    package = import_pyautoattack().AutoAttack(
        torch.nn.Identity(), norm="L1", eps=1.0, version="standard", device="cpu"
    )
    assert attack("apgd-ce", 1.0, "l1").runs == package.apgd.n_restarts == 5
    assert attack("apgd-t", 1.0, "l1").runs == package.apgd_targeted.n_target_classes == 5
    assert attack("apgd-t", 1.0, "l1", classes=4).runs == 3
    assert describe(attack("apgd-ce", 1.0, "l1")).family == "apgd"
    threat = ThreatModel.parse("l1", 12)
    assert [label for label, _ in resolve_attacks("all", threat, 10)] == ["apgd-ce", "apgd-t"]
    assert [label for label, _ in resolve_attacks("all", threat, 10, "reference")] == ["pyautoattack"]
    with pytest.raises(AdvdpnpError, match="for l1 use apgd-ce"):
        attack("fab-t", 1.0, "l1")
    with pytest.raises(AdvdpnpError, match="names no attack under l0"):
        resolve_attacks("all", ThreatModel.parse("l0", 12), 10)


def test_it_can_aim_at_a_class(find, net, images, labels):
    from advdpnp.attacks.criteria import Targeted
    from advdpnp.attacks.protocol import aim

    made = aim(APGDL1(ThreatModel.parse("l1", 30.0), "ce", iterations=20, name="apgd-ce"), Targeted("next"))
    found = find(net, made, images[5:13], labels[5:13])
    assert int(found.success.sum()) > 2
    with torch.no_grad():
        assert torch.equal(net(found.x_adv).argmax(1) == (labels[5:13] + 1) % 10, found.success)
