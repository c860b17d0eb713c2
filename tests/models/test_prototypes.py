"""The prototype head and its geometry."""

import math

import pytest
import torch

from advdpnp.models.prototypes import PrototypeHead, class_vectors, min_separation, simplex_bound


def test_one_shared_tensor_is_weight_and_centre():
    head = PrototypeHead(6, 3, radius=2.0)
    assert [name for name, _ in head.named_parameters()] == ["prototypes"]
    assert class_vectors(head) is head.prototypes
    features = torch.randn(4, 6)
    with torch.no_grad():
        head.prototypes[1] = features[0]  # moving the centre moves the weight
    assert head(features)[0, 1].item() == pytest.approx(float(features[0].square().sum()), rel=1e-5)


@pytest.mark.parametrize("radius", [1.0, 40.0])
def test_radius_after_renormalisation(radius):
    head = PrototypeHead(5, 4, radius)
    directions = torch.nn.functional.normalize(head.prototypes.detach(), dim=1)
    with torch.no_grad():
        head.prototypes *= torch.tensor([[0.1], [3.0], [1e-3], [70.0]])
    head.renormalise()
    assert torch.allclose(head.prototypes.norm(dim=1), torch.full((4,), radius))
    assert torch.allclose(torch.nn.functional.normalize(head.prototypes.detach(), dim=1), directions, atol=1e-6)


def test_min_separation_of_known_arrangements():
    assert min_separation(torch.eye(4)) == pytest.approx(90)
    simplex = torch.eye(10) - 0.1
    assert min_separation(simplex) == pytest.approx(simplex_bound(10, 9)) == pytest.approx(96.379, abs=1e-3)
    assert min_separation(torch.tensor([[1.0, 0.0], [math.cos(0.1), math.sin(0.1)], [-1.0, 0.0]])) == pytest.approx(
        math.degrees(0.1), rel=1e-4
    )
    assert min_separation(torch.ones(3, 4)) == pytest.approx(0, abs=1e-3)


def test_the_temperature_divides_the_logits_and_leaves_the_prediction():
    torch.manual_seed(0)
    plain, soft = PrototypeHead(5, 4, 40.0), PrototypeHead(5, 4, 40.0, temperature=160.0)
    soft.load_state_dict(plain.state_dict())
    features = torch.randn(7, 5)
    torch.testing.assert_close(soft(features) * 160, plain(features))
    assert torch.equal(soft(features).argmax(1), plain(features).argmax(1))
