"""The faster copy that attacks ask: the same function and gradient, or none at all."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from advdpnp.attacks.search_copy.make import make_search_copy
from advdpnp.attacks.search_copy.strided_gradient import StridedConvolution, has_slow_gradient

CASES = [
    (channels, kernel, stride, padding, size)
    for channels, kernel, stride, padding, size in itertools.product(
        (1, 3), (2, 3, 4, 7), (2, 3), (0, 1, 3), (8, 11, 16)
    )
    if padding < kernel
]


@pytest.mark.parametrize(("channels", "kernel", "stride", "padding", "size"), CASES)
def test_gradients_of_strided_convolutions_equal_those_of_autograd(channels, kernel, stride, padding, size):
    plain = nn.Conv2d(channels, 5, kernel, stride, padding).double().requires_grad_(False)
    x = torch.rand(3, channels, size, size, dtype=torch.float64, requires_grad=True)
    y = plain(x)
    gradient = torch.rand_like(y)
    (expected,) = torch.autograd.grad(y, x, gradient)
    other = StridedConvolution(plain)
    (found,) = torch.autograd.grad(other(x), x, gradient)
    assert torch.equal(other(x), y)
    torch.testing.assert_close(found, expected)


def test_kernels_and_paddings_need_not_be_square():
    plain = nn.Conv2d(3, 4, (3, 5), 2, (1, 0)).requires_grad_(False)
    x = torch.rand(2, 3, 14, 9, requires_grad=True)
    (expected,) = torch.autograd.grad(plain(x).square().sum(), x)
    (found,) = torch.autograd.grad(StridedConvolution(plain)(x).square().sum(), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_inner_layers_equal_those_of_autograd_in_their_memory_format(layout):
    plain = nn.Conv2d(16, 8, 4, 2, 1).requires_grad_(False).to(memory_format=layout)
    assert has_slow_gradient(plain)
    x = torch.rand(2, 16, 12, 10).contiguous(memory_format=layout).requires_grad_()
    (expected,) = torch.autograd.grad(plain(x).square().sum(), x)
    (found,) = torch.autograd.grad(StridedConvolution(plain)(x).square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.is_contiguous(memory_format=layout)


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
    assert not has_slow_gradient(layer)


def test_the_copy_has_the_same_outputs_and_does_not_change_the_model(net, images):
    net.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    prepared = make_search_copy(net, images)
    assert any(isinstance(module, StridedConvolution) for module in prepared.modules())
    assert not any(isinstance(module, StridedConvolution) for module in net.modules())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net[0].weight.is_contiguous()
    x = images.requires_grad_()
    gradients = [torch.autograd.grad(model(x).square().sum(), x)[0] for model in (net, prepared)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), nn.BatchNorm2d(8)])
def test_networks_that_are_faster_so_have_their_channels_last(layer, images):
    kernel = nn.Conv2d(images.shape[1], 8, 3)
    nets = [nn.Sequential(kernel, *more, nn.AdaptiveAvgPool2d(1), nn.Flatten()) for more in ((), (layer,))]
    plain, other = (make_search_copy(net.eval().requires_grad_(False), images) for net in nets)
    features = [each[0](images) for each in (plain, other)]
    assert [each.is_contiguous(memory_format=torch.channels_last) for each in features] == [False, True]


class Forgetful(nn.Module):
    """Its copies have different outputs."""

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
def test_models_without_a_faithful_copy_are_searched_themselves(model, images):
    assert make_search_copy(model, images) is model


class DerivedWeights(nn.Module):
    """Its weights at every call are the stored ones plus a difference; the stored ones alone are another net's.

    With ``everywhere=False`` the difference counts only for images that are no multiples of 1/255.
    """

    def __init__(self, net, everywhere=True):
        super().__init__()
        self.net, self.everywhere = net, everywhere
        self.differences = nn.ParameterList([-2 * weight.detach() for weight in net.parameters()])

    def forward(self, x):
        moved = self.everywhere or bool((255 * x - (255 * x).round()).abs().max() > 1e-3)
        weights = {
            name: weight + difference * moved
            for (name, weight), difference in zip(self.net.named_parameters(), self.differences, strict=True)
        }
        return functional_call(self.net, weights, (x,))


def plain_fgsm(model, x, y, eps):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), x)
    return (x + eps * gradient.sign()).clamp(0, 1).detach()


def strided(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.Softplus(), nn.Flatten(), nn.Linear(512, 10)).eval()


def test_a_copy_with_other_gradients_is_dropped_and_the_attack_is_as_strong_as_on_the_model(images, attack, find):
    model = DerivedWeights(strided())
    with torch.no_grad():
        labels = model(images).argmax(1)
    x_adv = plain_fgsm(model, images, labels, 0.03)
    broken = int((model(x_adv).argmax(1) != labels).sum())
    assert broken > 30
    reports = []
    found = find(model, attack("fgsm", 0.03), images, labels, on_copy_differs=lambda: reports.append("differs"))
    assert abs(int(found.success.sum()) - broken) <= 2
    assert reports == []  # the model itself was attacked from the start
    assert make_search_copy(model.eval().requires_grad_(False), images[:8]) is model


def test_a_copy_that_differs_on_the_first_queries_is_reported_and_dropped(images, attack, find):
    grid = (images * 255).round() / 255
    model = DerivedWeights(strided(), everywhere=False)
    assert make_search_copy(model.eval().requires_grad_(False), grid[:8]) is not model
    with torch.no_grad():
        labels = model(grid).argmax(1)
    reports = []
    for name, parting in (("fgsm", 0), ("pgd-5", 1)):  # FGSM starts at the clean images, PGD at random ones
        reports.clear()
        find(model, attack(name, 0.03), grid, labels, on_copy_differs=lambda: reports.append("differs"))
        assert len(reports) == parting


class Residual(nn.Module):
    """A block of a ResNet: two convolutions with a shortcut."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


def residual():
    """The structure of torchvision's resnet18 with fewer channels and blocks."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        Residual(8, 8, 1), Residual(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10, bias=False),
    )  # fmt: skip
    for _ in range(20):
        net(torch.rand(32, 3, 16, 16))  # running statistics
    return net.eval()


class Autocast(nn.Module):
    """Always computes in bfloat16 and returns bfloat16 logits."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.net(x)


@pytest.mark.parametrize("make", [strided, residual])
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_model_with_autocast_in_its_forward_is_attacked(make, precision, images, attack, find):
    model = Autocast(make())
    with torch.no_grad():
        labels = model(images).argmax(1)
    x_adv = plain_fgsm(model, images, labels, 0.1)
    plain = int((model(x_adv).argmax(1) != labels).sum())
    for name in ("fgsm", "apgd-t"):
        found = find(model, attack(name, 0.1), images, labels, precision=precision)
        assert found.margin.dtype == torch.float32
        assert int(found.success.sum()) >= plain - 3 > 20
