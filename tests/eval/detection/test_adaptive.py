"""The attack on a model and a score at once, on models where it is known what it must find."""

import pytest
import torch

from advdpnp.attacks.algorithms.pgd import PGD, perturb
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import Draw
from advdpnp.eval.detection.adaptive import AdaptiveAttack, attack_both, least_suspicious
from advdpnp.eval.detection.scores import SCORES, Detector, Fitting, build_detector

THREAT = ThreatModel.parse("linf", "0.2")


def batch(n: int = 21) -> Batch:
    """Images whose first pixel is brighter by 0.1; the class is 0."""
    dark = torch.linspace(0.3, 0.6, n)
    return Batch(
        torch.stack([dark + 0.1, dark], 1).reshape(n, 1, 1, 2), torch.zeros(n, dtype=torch.int64), torch.arange(n)
    )


def plain(net, rows: Batch) -> torch.Tensor:
    return perturb(net, rows.x, rows.y, PGD(THREAT, steps=10, objective="margin"), Draw.of(0, rows.sample))


def brightness() -> Detector:
    """Suspicious is what differs from the brightness of clean images: their sum of pixels lies near 1."""
    return Detector(*(2 * [lambda outputs: (outputs.features.sum(1) - 1.0).abs()]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_finds_what_fools_both(two_pixels, reader, norm):
    """Plain PGD moves both pixels by eps, which leaves the sum; another start finds the sum of 1 on the wrong side."""
    threat, rows = ThreatModel.parse(norm, "0.2"), batch()
    attack = AdaptiveAttack(threat, steps=60, restarts=2)
    found = attack_both(reader(two_pixels, 2), brightness(), rows, [], attack)
    assert bool(found.misclassified.all())
    reachable = (rows.x.flatten(1).sum(1) - 1).abs() - (0.25 if norm == "linf" else 0.2)
    near = reachable < 0  # the sum can be brought to 1 on the wrong side
    assert int(near.sum()) > 5
    assert float(found.scores[near].max()) < 0.03
    assert bool(threat.contains(rows.x, found.images).all())
    assert float(found.images.min()) >= 0
    assert float(found.images.max()) <= 1


def test_it_breaks_a_detector_that_plain_pgd_does_not(two_pixels, reader):
    """The detector knows the far side: margins of more than 0.2 are suspicious. Plain PGD goes as far as it can."""
    detector = Detector(*(2 * [lambda outputs: (outputs.features[:, 1] - outputs.features[:, 0]).abs()]))
    rows = batch()
    net = reader(two_pixels, 2)
    attacked = plain(two_pixels, rows)
    before = detector.score(net.read(attacked))
    assert float(before.min()) > 0.2
    found = attack_both(net, detector, rows, [attacked], AdaptiveAttack(THREAT, steps=60, restarts=1))
    assert bool(found.misclassified.all())
    assert float(found.scores.max()) < 0.1  # less suspicious than the clean image


@pytest.mark.parametrize("name", SCORES.names())
@pytest.mark.parametrize("head", ["prototype", "linear", "ed-wta"])
@pytest.mark.parametrize("n", [1, 19])
def test_it_is_never_weaker_than_what_is_known(name, head, n, network, reader):
    net = network(head)
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = net(x).argmax(1)
    y[::5] = (y[::5] + 1) % 4  # some clean mistakes
    rows = Batch(x, y, torch.arange(n))
    made = reader(net, 4)
    train = torch.rand(80, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    try:
        detector = build_detector(name, Fitting(made.head, made.read(train), torch.arange(80) % 4))
    except AdvdpnpError:
        pytest.skip("the model lacks what the score needs")
    attacked = perturb(net, x, y, PGD(THREAT, steps=5), Draw.of(0, rows.sample))
    attack = AdaptiveAttack(THREAT, steps=1, restarts=2)  # too weak to find what is known by itself
    found = attack_both(made, detector, rows, [x, attacked], attack)
    for known in (x, attacked):
        outputs = made.read(known)
        wrong, score = outputs.prediction != y, detector.score(outputs)
        assert bool((found.misclassified | ~wrong).all())
        assert bool((found.scores[wrong] <= score[wrong]).all())
    assert bool(THREAT.contains(x, found.images).all())
    assert torch.equal(found.images[~found.misclassified], x[~found.misclassified])
    outputs = made.read(found.images)
    assert torch.equal(outputs.prediction != y, found.misclassified)
    torch.testing.assert_close(detector.score(outputs), found.scores, rtol=1e-5, atol=1e-6)
    again = attack_both(made, detector, rows, [x, attacked], attack)
    assert torch.equal(again.images, found.images)


def test_images_outside_the_ball_are_not_chosen(two_pixels, reader):
    rows = batch(5)
    far = rows.x.flip(3) * 0.2
    chosen = least_suspicious(reader(two_pixels, 2), brightness(), rows, [far], THREAT)
    assert not bool(chosen.misclassified.any())
    assert torch.equal(chosen.images, rows.x)


def test_a_norm_without_steps_is_a_sentence():
    with pytest.raises(AdvdpnpError, match="does not support l1"):
        AdaptiveAttack(ThreatModel.parse("l1", "3"))
