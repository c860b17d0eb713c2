"""Architectures of four public CIFAR-10 nets, so that their weights can be attacked.

    advdpnp eval --dataset cifar10 --model benchmarks.public_models:cifar_cnn_a --weights cifar_cnn_a_adv.model

| factory      | weights                   | published by                                |
|--------------|---------------------------|---------------------------------------------|
| resnet20     | resnet20-12fca82f.th      | akamaster/pytorch_resnet_cifar10 (BSD-2)    |
| cifar_cnn_a  | cifar_cnn_a_adv.model     | alpha-beta-CROWN (BSD-3)                    |
| resnet2b     | resnet2b.pth              | alpha-beta-CROWN (BSD-3)                    |
| cifar_wide   | cifar_wide.pth            | Wong and Kolter, through alpha-beta-CROWN   |

The files name the layers without any wrapper, so each net here holds its layers at the top level, and its normalisation
in buffers that a state_dict leaves out. Strict loading then needs no renaming.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from advdpnp.models.architectures.resnet import PadShortcut, ResNet

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)


class TakesUnitImages(nn.Module):
    """Mixin in front of a net: ``forward`` takes images in [0, 1] and hands them on normalised."""

    mean: Tensor
    std: Tensor

    def normalise_by(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Set the normalisation, one number per channel."""
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, 32, 32) in [0, 1] to logits (n, 10)."""
        logits: Tensor = super().forward((x - self.mean) / self.std)
        return logits


class _Layers(TakesUnitImages, nn.Sequential):
    pass


class _PlainResNet20(ResNet):
    def __init__(self) -> None:
        super().__init__(3, (16, 32, 64), 3, PadShortcut)
        self.linear = nn.Linear(self.width, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(super().forward(x))
        return logits


class _ResNet20(TakesUnitImages, _PlainResNet20):
    pass


class _BiasBlock(nn.Module):
    """A basic block with biases and without BatchNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Sequential(*([] if same else [nn.Conv2d(inputs, outputs, 1, stride)]))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(functional.relu(self.conv1(x)))
        return functional.relu(h + self.shortcut(x))


class _PlainResNet2b(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.layer1 = nn.Sequential(_BiasBlock(8, 16, 2), _BiasBlock(16, 16, 1))
        self.linear1 = nn.Linear(1024, 100)
        self.linear2 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer1(functional.relu(self.conv1(x)))
        logits: Tensor = self.linear2(functional.relu(self.linear1(h.flatten(1))))
        return logits


class _ResNet2b(TakesUnitImages, _PlainResNet2b):
    pass


def resnet20() -> nn.Module:
    """Standard training, 91.73 % clean."""
    net = _ResNet20()
    net.normalise_by(IMAGENET_MEAN, IMAGENET_STD)
    return net


def cifar_cnn_a() -> nn.Module:
    """Adversarial training at 2/255, 69.75 % clean."""
    return _two_convolutions(CIFAR_MEAN, (0.2023, 0.1994, 0.2010))


def cifar_wide() -> nn.Module:
    """Provable training, 61.62 % clean; the layers of ``cifar_cnn_a``."""
    return _two_convolutions(IMAGENET_MEAN, (0.225, 0.225, 0.225))


def resnet2b() -> nn.Module:
    """Adversarial training at 2/255, 69.25 % clean."""
    net = _ResNet2b()
    net.normalise_by(CIFAR_MEAN, (0.2471, 0.2435, 0.2616))
    return net


def _two_convolutions(mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    net = _Layers(
        nn.Conv2d(3, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    net.normalise_by(mean, std)
    return net
