"""Each loss term against a plain computation, sample by sample."""

import math

import pytest
import torch

from advdpnp.training.methods.prototypes import losses


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    prototypes = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    return features, prototypes, torch.tensor([0, 1, 2, 3, 0, 1, 2])


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return math.sqrt(sum((float(u) - float(v)) ** 2 for u, v in zip(a, b, strict=True)))


def _nearest(h: torch.Tensor, prototypes: torch.Tensor, own: int) -> int:
    return min((j for j in range(len(prototypes)) if j != own), key=lambda j: _distance(h, prototypes[j]))


def test_rival_is_never_the_own_class(batch):
    features, prototypes, y = batch
    on_own = prototypes[y] + 1e-6  # the own prototype is by far the nearest
    for h in (features, on_own):
        rivals = losses.nearest_rival(h, prototypes, y)
        assert not (rivals == y).any()
        assert rivals.tolist() == [_nearest(row, prototypes, int(own)) for row, own in zip(h, y, strict=True)]


def test_pull_is_mean_squared_distance(batch):
    features, prototypes, y = batch
    expected = sum(_distance(h, prototypes[int(own)]) ** 2 for h, own in zip(features, y, strict=True)) / len(y)
    assert float(losses.pull(features, prototypes, y)) == pytest.approx(expected, rel=1e-12)


PLAIN_READINGS = {
    "root-distance": lambda a, b: math.sqrt(_distance(a, b)),
    "sum-of-roots": lambda a, b: sum(math.sqrt(abs(float(u) - float(v))) for u, v in zip(a, b, strict=True)),
    "squared-sum-of-roots": lambda a, b: (
        sum(math.sqrt(abs(float(u) - float(v))) for u, v in zip(a, b, strict=True)) ** 2
    ),
}


@pytest.mark.parametrize("reading", losses.REPULSIONS)
def test_repulsions_match_the_plain_computation(batch, reading):
    features, prototypes, y = batch
    plain = PLAIN_READINGS[reading]
    samples = [plain(h, prototypes[_nearest(h, prototypes, int(own))]) for h, own in zip(features, y, strict=True)]
    classes = [plain(c, prototypes[_nearest(c, prototypes, j)]) for j, c in enumerate(prototypes)]
    assert float(losses.sample_repulsion(features, prototypes, y, reading)) == pytest.approx(
        sum(samples) / 7, rel=1e-12
    )
    assert float(losses.class_repulsion(prototypes, reading)) == pytest.approx(sum(classes) / 4, rel=1e-12)


@pytest.mark.parametrize("reading", losses.REPULSIONS)
def test_gradients_of_the_terms_are_right(batch, reading):
    features, prototypes, y = (t.clone().requires_grad_(t.is_floating_point()) for t in batch)
    assert torch.autograd.gradcheck(lambda h, c: losses.sample_repulsion(h, c, y, reading), (features, prototypes))
    assert torch.autograd.gradcheck(lambda c: losses.class_repulsion(c, reading), (prototypes,))
    assert torch.autograd.gradcheck(lambda h, c: losses.pull(h, c, y), (features, prototypes))


@pytest.mark.parametrize("reading", losses.REPULSIONS)
def test_repulsion_at_distance_zero_has_a_finite_gradient(reading):
    prototypes = torch.ones(3, 4, requires_grad=True)
    losses.class_repulsion(prototypes, reading).backward()
    assert prototypes.grad is not None
    assert prototypes.grad.isfinite().all()


def test_kl_consistency_matches_the_definition_in_the_right_direction():
    clean, adversarial = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.0, 2.0, 0.0]])
    p, q = clean.softmax(1)[0], adversarial.softmax(1)[0]
    expected = sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True))
    assert float(losses.kl_consistency(clean, adversarial)) == pytest.approx(expected, rel=1e-5)


def test_kl_consistency_survives_a_saturated_softmax():
    clean = torch.tensor([[2000.0, 0.0, -2000.0]], requires_grad=True)
    adversarial = torch.tensor([[-2000.0, 0.0, 2000.0]], requires_grad=True)
    value = losses.kl_consistency(clean, adversarial)
    value.backward()
    assert value.isfinite()
    assert clean.grad is not None
    assert clean.grad.isfinite().all()
    assert adversarial.grad is not None
    assert adversarial.grad.isfinite().all()


def test_mse_consistency_matches_the_definition():
    clean, adversarial = torch.tensor([[1.0, 0.0], [3.0, 1.0]]), torch.tensor([[0.0, 2.0], [0.5, 0.5]])
    expected = ((clean.softmax(1) - adversarial.softmax(1)) ** 2).sum(1).mean()
    assert float(losses.mse_consistency(clean, adversarial)) == pytest.approx(float(expected))
