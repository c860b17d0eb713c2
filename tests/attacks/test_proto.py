"""The attack on features: it goes where it says, at the cost of APGD-T, and never asks the head."""

import pytest
import torch
from torch import nn

from advdpnp.attacks.apgd import APGD, TARGETED_DLR
from advdpnp.attacks.proto import Proto
from advdpnp.attacks.threat import ThreatModel
from advdpnp.errors import AdvdpnpError
from advdpnp.models.network import Network
from advdpnp.prototypes import PrototypeHead

THREAT = ThreatModel.parse("linf", 0.05)


class Flat(nn.Module):
    def forward(self, x):
        return x.flatten(1)


def network(temperature=1.0, seed=0):
    """Features are 8 random projections of the image; 5 prototypes."""
    generator = torch.Generator().manual_seed(seed)
    projection = nn.Linear(48, 8)
    head = PrototypeHead(8, 5, 2.0, temperature)
    with torch.no_grad():
        projection.weight.copy_(torch.randn(8, 48, generator=generator))
        projection.bias.copy_(-projection.weight.sum(1) / 2)
        head.prototypes.copy_(torch.randn(5, 8, generator=generator))
        head.renormalise()
    model = Network.__new__(Network)
    nn.Module.__init__(model)
    model.normalise, model.backbone, model.projection, model.head = nn.Identity(), Flat(), projection, head
    return model.eval()


@pytest.fixture
def pictures():
    x = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return x, network()(x).argmax(1)


def test_what_it_sees_is_the_distance_to_each_prototype(pictures):
    x, _ = pictures
    model, attack = network(), Proto(THREAT)
    seen = attack.look(model)
    with torch.no_grad():
        torch.testing.assert_close(seen(x)[:, :5], model(x))
        vectors, features = model.head.prototypes, model.features(x)
        expected = -(torch.cdist(features, vectors) ** 2) / 4
        torch.testing.assert_close(seen(x)[:, 5:], expected, rtol=1e-4, atol=1e-4)


def test_it_breaks_what_other_attacks_break_at_the_same_cost(pictures, find):
    x, y = pictures
    model = network()
    found = find(model, Proto(THREAT, iterations=20, runs=4), x, y)
    other = find(model, APGD(THREAT, TARGETED_DLR, iterations=20, runs=4, name="apgd-t"), x, y)
    assert 5 < int(found.success.sum()) < 40
    assert int((found.success ^ other.success).sum()) <= 8
    held = ~found.success & ~other.success
    assert torch.equal(found.backwards[held], other.backwards[held])


def test_the_head_changes_nothing_of_the_search(pictures, find):
    x, y = pictures
    attack = Proto(THREAT, iterations=15, runs=4)
    found, scaled = find(network(), attack, x, y), find(network(1e-3), attack, x, y)
    assert torch.equal(found.success, scaled.success)
    assert torch.equal(found.x_adv, scaled.x_adv)


def test_models_without_known_features_are_refused(net, images, labels, find, attack):
    with pytest.raises(AdvdpnpError, match="a Sequential does not show"):
        find(net, attack("proto"), images, labels)
