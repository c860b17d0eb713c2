"""The inner attack of a training step."""

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from advdpnp.attacks.search_copy.make import can_be_folded
from advdpnp.attacks.threat import ThreatModel
from advdpnp.models.network import ModelConfig, Network, build_model
from advdpnp.training.methods.base import build_method
from advdpnp.training.recipe import resolve_recipe
from advdpnp.training.step import TrainingStep

RECIPE = {"attack.eps": "8/255", "attack.steps": 3, "precision": "64"}


def step_of(architecture: str = "tiny-resnet", **values: object) -> tuple[TrainingStep, Network]:
    recipe = resolve_recipe("pgd-at", "none", {**RECIPE, **values})
    torch.manual_seed(0)
    network = build_model(
        ModelConfig(architecture, 4, 3, (16, 16), None, "linear", None, mean=(0.5,) * 3, std=(0.25,) * 3)
    )
    fabric = Fabric(accelerator="cpu", devices=1, precision=recipe.precision)
    method = build_method(recipe.method)
    return TrainingStep(recipe, method, network, ThreatModel.parse("linf", "8/255"), fabric, compiled=False), network


def batch(count: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, 16, 16, generator=generator, dtype=torch.float64)
    return images, torch.arange(count) % 4, torch.arange(count)


@pytest.mark.parametrize("architecture", ["tiny-resnet", "small-cnn"])
def test_the_inner_attack_on_a_folded_copy_finds_the_images_of_the_network(architecture):
    step, network = step_of(architecture)
    x, y, index = batch()
    for number in range(2):  # statistics and weights are those of training, and change between the steps
        step.update(x, y, index, 0, number, 0.1)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    assert step.folds
    found = step.adversarial(network, x, y, index, 1)
    step.folds = False
    torch.testing.assert_close(found, step.adversarial(network, x, y, index, 1), rtol=0, atol=1e-9)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_nothing_is_folded_where_batch_statistics_are_asked_for_or_no_layer_normalises():
    assert not step_of(**{"attack.mode": "train"})[0].folds
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    plain(torch.rand(1, 3, 16, 16))
    assert not can_be_folded(plain, torch.rand(8, 3, 16, 16))


class Shared(nn.Module):
    """Uses the output of a convolution before and after its normalisation, so folding changes it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.normalisation = nn.BatchNorm2d(4)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raw = self.convolution(x)
        return self.head(torch.cat([raw.relu().mean((2, 3)), self.normalisation(raw).relu().mean((2, 3))], 1))


def test_a_new_network_that_folding_would_change_is_not_folded():
    torch.manual_seed(0)
    network = Shared().eval()
    assert not can_be_folded(network, torch.rand(8, 3, 16, 16))
    # In its first block, the shortcut uses the output of the stem before its normalisation.
    assert not step_of("preactresnet18")[0].folds


@pytest.mark.parametrize("architecture", ["tiny-resnet", "preactresnet18"])
def test_in_bf16_the_inner_attack_searches_a_copy_that_is_converted_once_per_step(architecture):
    assert not step_of(architecture)[0].lowers
    assert not step_of(architecture, precision="bf16", **{"attack.mode": "train"})[0].lowers
    step, network = step_of(architecture, precision="bf16", **{"attack.steps": 1})
    assert step.lowers
    x, y, index = batch()
    x = x.float()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    low = step.adversarial(network, x, y, index, 1)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert low.dtype == torch.float32
    step.lowers = False
    autocast = step.adversarial(network, x, y, index, 1)
    assert float((low == autocast).double().mean()) > 0.8  # signs of gradients that differ by rounding
    step.update(x, y, index, 0, 0, 0.1)
    step.lowers = True
    assert not torch.equal(step.adversarial(network, x, y, index, 1), low)  # of the new weights
