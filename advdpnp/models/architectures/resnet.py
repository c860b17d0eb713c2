"""Residual networks for small images: ResNet-18 with a 3x3 stem, and the CIFAR ResNet-20.

He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (CVPR 2016).
"""

from torch import Tensor, nn
from torch.nn import functional

from advdpnp.models.base import ACTIVATIONS, MODELS, Backbone, initialise, require_size


class PadShortcut(nn.Module):
    """The shortcut without weights (option A of section 4.2): subsampled, with zero channels added on both sides."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, ceil(h / stride), ceil(w / stride))."""
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class ConvShortcut(nn.Sequential):
    """The learned shortcut (option B): a 1x1 convolution and BatchNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, added to the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: type[nn.Module], activation: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else shortcut(inputs, outputs, stride)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, ceil(h / stride), ceil(w / stride))."""
        h = self.activation(self.bn1(self.conv1(x)))
        found: Tensor = self.activation(self.bn2(self.conv2(h)) + self.shortcut(x))
        return found


class ResNet(Backbone):
    """A 3x3 stem, stages of basic blocks, global average pooling. Every stage but the first halves the image.

    Args:
        channels: channels of the images.
        widths: channels of each stage.
        blocks: basic blocks in each stage.
        shortcut: the module, built from (inputs, outputs, stride), of a shortcut that changes the shape.
        activation: a key of ``ACTIVATIONS``.
    """

    def __init__(
        self,
        channels: int,
        widths: tuple[int, ...],
        blocks: int,
        shortcut: type[nn.Module],
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = len(widths)
        inputs = widths[0]
        for stage, outputs in enumerate(widths, start=1):
            strides = [1 if stage == 1 else 2] + [1] * (blocks - 1)
            layers = []
            for stride in strides:
                layers.append(BasicBlock(inputs, outputs, stride, shortcut, activation))
                inputs = outputs
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
        self.activation = ACTIVATIONS[activation]()
        self.width = inputs
        initialise(self.modules())

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to features (n, width); with ReLU, all non-negative."""
        h: Tensor = self.activation(self.bn1(self.conv1(x)))
        for stage in range(1, self.stages + 1):
            h = self.get_submodule(f"layer{stage}")(h)
        return h.mean((2, 3))


_REFERENCE = "He et al., Deep residual learning for image recognition, CVPR 2016"


@MODELS.register(
    "resnet18",
    description="ResNet-18, 3x3 stem, 512 features, 11.2 M parameters; model.width=16 makes it a quarter as wide",
    reference=_REFERENCE,
    defaults={"width": 64, "activation": "relu"},
)
def resnet18(channels: int, image_size: tuple[int, int], width: int, activation: str) -> ResNet:
    """Build the ResNet-18 of the CIFAR literature: stride 1 and no pooling in the stem, stages 64/128/256/512.

    Args:
        width: channels of the first stage; every later stage has twice as many as the one before.
        activation: a key of ``ACTIVATIONS``.
    """
    require_size("resnet18", image_size)
    return ResNet(channels, (width, 2 * width, 4 * width, 8 * width), 2, ConvShortcut, activation)


@MODELS.register(
    "resnet20",
    description="CIFAR ResNet-20, 64 features, 0.27 M parameters",
    reference=_REFERENCE,
    defaults={"activation": "relu"},
)
def resnet20(channels: int, image_size: tuple[int, int], activation: str) -> ResNet:
    """Build the ResNet-20 of section 4.2 (stages 16/32/64, shortcuts without weights)."""
    require_size("resnet20", image_size)
    return ResNet(channels, (16, 32, 64), 3, PadShortcut, activation)
