"""Folding: the same function with fewer layers, and only where it is the same."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from advdpnp.attacks.search_copy.batchnorm_folding import fold_normalisation
from advdpnp.attacks.search_copy.make import make_search_copy

IMAGES = torch.rand(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _living(model):
    """In evaluation mode, with non-trivial statistics and weights, as after training."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            if module.running_mean is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.1, 3)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.double().eval().requires_grad_(False)


def _normalisations(model):
    return sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.modules())


class Branches(nn.Module):
    """One block of a ResNet."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.second, self.other = nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4, affine=False)
        self.shortcut = nn.Sequential(nn.Conv2d(3, 4, 1, 2, groups=1), nn.BatchNorm2d(4))
        self.last = nn.BatchNorm2d(4)

    def forward(self, x):
        inner = self.other(self.second(functional.relu(self.norm(self.first(x)), inplace=True)))
        return self.last(inner + self.shortcut(x)).flatten(1)


@pytest.mark.parametrize(
    ("model", "left"),
    [
        (Branches(), 1),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.Flatten()), 0),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.BatchNorm1d(5)), 0),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten()), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Flatten()), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.Flatten()), 0),
    ],
)
def test_the_folded_model_is_the_same_function(model, left):
    model = _living(model)
    x = IMAGES.clone().requires_grad_()
    expected = model(x)
    (gradient,) = torch.autograd.grad(expected.square().sum(), x)
    before = _normalisations(model)
    assert fold_normalisation(model, IMAGES) == (left < before)
    assert _normalisations(model) == left
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(torch.autograd.grad(model(x).square().sum(), x)[0], gradient)


class Twice(nn.Module):
    """One layer before two normalisations, and two layers before one."""

    def __init__(self):
        super().__init__()
        self.layer, self.norms = nn.Conv2d(3, 3, 3, 1, 1), nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])
        self.others, self.shared = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)]), nn.BatchNorm2d(3)
        self.fork, self.left, self.right = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        for norm in self.norms:
            x = norm(self.layer(x))
        for other in self.others:
            x = self.shared(other(x))
        x = self.fork(x)
        return (self.left(x) * self.right(x)).flatten(1)


def test_layers_and_normalisations_of_several_uses_stay():
    model = _living(Twice())
    assert not fold_normalisation(model, IMAGES)
    assert _normalisations(model) == 5


class Peeking(nn.Module):
    """The input of a normalisation is also used elsewhere, outside any module."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.strided = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(3, 4, 3, 2)

    def forward(self, x):
        before = self.layer(x)
        return (self.norm(before) + before.relu()).flatten(2).mean(2) + self.strided(x).flatten(2).mean(2)


class Reading(Peeking):
    """Its forward reads a buffer or parameter of the normalisation."""

    def forward(self, x):
        return super().forward(x) + self.norm.weight


class Counting(Peeking):
    """Its outputs depend on the size of the batch."""

    def forward(self, x):
        if len(x) == len(IMAGES):
            return (self.norm(self.layer(x))).flatten(2).mean(2) + self.strided(x).flatten(2).mean(2)
        return super().forward(x)


@pytest.mark.parametrize("model", [Peeking(), Reading(), Counting()])
def test_a_model_that_folding_would_change_is_prepared_without(model):
    model, images = _living(model).float(), IMAGES.float()
    prepared = make_search_copy(model, images)
    assert prepared is not model
    assert _normalisations(prepared) == 1
    torch.testing.assert_close(prepared(images), model(images), rtol=1e-4, atol=1e-5)


def test_attacks_query_a_folded_copy_and_the_model_does_not_change():
    model, images = _living(Branches()).float(), IMAGES.float()
    expected = model(images)
    prepared = make_search_copy(model, images)
    assert (_normalisations(prepared), _normalisations(model)) == (1, 4)
    torch.testing.assert_close(prepared(images), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(model(images), expected)
