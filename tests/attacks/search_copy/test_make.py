"""The faster copy that attacks ask: the same function and gradient, or none at all."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from advdpnp.attacks.search_copy.make import make_search_copy
from advdpnp.attacks.search_copy.strided_gradient import ImageConvolution, is_image_convolution

CASES = [
    (channels, kernel, stride, padding, size)
    for channels, kernel, stride, padding, size in itertools.product(
        (1, 3), (2, 3, 4, 7), (2, 3), (0, 1, 3), (8, 11, 16)
    )
    if padding < kernel
]


@pytest.mark.parametrize(("channels", "kernel", "stride", "padding", "size"), CASES)
def test_gradients_of_strided_convolutions_are_those_of_autograd(channels, kernel, stride, padding, size):
    plain = nn.Conv2d(channels, 5, kernel, stride, padding).double().requires_grad_(False)
    x = torch.rand(3, channels, size, size, dtype=torch.float64, requires_grad=True)
    y = plain(x)
    gradient = torch.rand_like(y)
    (expected,) = torch.autograd.grad(y, x, gradient)
    other = ImageConvolution(plain)
    (found,) = torch.autograd.grad(other(x), x, gradient)
    assert torch.equal(other(x), y)
    torch.testing.assert_close(found, expected)


def test_kernels_and_paddings_need_not_be_square():
    plain = nn.Conv2d(3, 4, (3, 5), 2, (1, 0)).requires_grad_(False)
    x = torch.rand(2, 3, 14, 9, requires_grad=True)
    (expected,) = torch.autograd.grad(plain(x).square().sum(), x)
    (found,) = torch.autograd.grad(ImageConvolution(plain)(x).square().sum(), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 3, 1, 1),
        nn.Conv2d(16, 8, 3, 2, 1),
        nn.Conv2d(4, 8, 3, 2, 1, groups=2),
        nn.Conv2d(3, 8, 3, 2, 1, dilation=2),
        nn.Conv2d(3, 8, 3, 2, 1, padding_mode="reflect"),
        nn.Conv2d(3, 8, 3, (2, 1), 1),
        nn.ConvTranspose2d(3, 8, 3, 2),
        nn.Linear(3, 3),
    ],
)
def test_other_layers_stay_as_they_are(layer):
    assert not is_image_convolution(layer)


def test_the_copy_says_the_same_and_leaves_the_model_alone(net, images):
    net.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    prepared = make_search_copy(net, images)
    assert any(isinstance(module, ImageConvolution) for module in prepared.modules())
    assert not any(isinstance(module, ImageConvolution) for module in net.modules())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net[0].weight.is_contiguous()
    x = images.requires_grad_()
    gradients = [torch.autograd.grad(model(x).square().sum(), x)[0] for model in (net, prepared)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


class Forgetful(nn.Module):
    """A copy of it answers otherwise."""

    def __init__(self, lost=None):
        super().__init__()
        self.lost = lost

    def __deepcopy__(self, memo):
        return Forgetful(lost=True)

    def forward(self, x):
        return x.flatten(1)[:, :4] * (2 if self.lost else 1)


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo):
        raise RuntimeError("no")


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(768, 4)
        self.layer.register_forward_hook(lambda *_: None)

    def forward(self, x):
        return self.layer(x.flatten(1))


@pytest.mark.parametrize(
    "model",
    [Forgetful(), nn.Sequential(nn.Flatten(), Uncopied(768, 4)), Counting(),
     nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(768, 4)))],
)  # fmt: skip
def test_what_cannot_be_copied_faithfully_is_attacked_itself(model, images):
    assert make_search_copy(model, images) is model
