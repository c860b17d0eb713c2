"""Pre-activation residual networks: normalisation and activation come before each convolution.

He, Zhang, Ren and Sun, "Identity mappings in deep residual networks" (ECCV 2016).
"""

from torch import Tensor, nn

from advdpnp.models.base import ACTIVATIONS, MODELS, Backbone, initialise, require_size


class PreActBlock(nn.Module):
    """BatchNorm, activation, 3x3 convolution, twice; added to the input or to a 1x1 convolution of the activations."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, ceil(h / stride), ceil(w / stride))."""
        active = self.activation(self.bn1(x))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(active)
        residual: Tensor = self.conv2(self.activation(self.bn2(self.conv1(active))))
        return shortcut + residual


class PreActResNet(Backbone):
    """A 3x3 stem without normalisation, stages of pre-activation blocks, BatchNorm, activation, global average pooling.

    Args:
        channels: channels of the images.
        stem: channels after the first convolution.
        widths: channels of each stage; every stage but the first halves the image.
        blocks: blocks in each stage.
        activation: a key of ``ACTIVATIONS``.
    """

    def __init__(self, channels: int, stem: int, widths: tuple[int, ...], blocks: int, activation: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        layers, inputs = [], stem
        for stage, outputs in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(PreActBlock(inputs, outputs, stride, activation))
                inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.bn = nn.BatchNorm2d(inputs)
        self.activation = ACTIVATIONS[activation]()
        self.width = inputs
        initialise(self.modules())

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to features (n, width); with ReLU, all non-negative."""
        h: Tensor = self.activation(self.bn(self.blocks(self.conv1(x))))
        return h.mean((2, 3))


@MODELS.register(
    "preactresnet18",
    description="pre-activation ResNet-18, 512 features, 11.2 M parameters",
    reference="He et al., Identity mappings in deep residual networks, ECCV 2016",
    defaults={"activation": "relu"},
)
def preactresnet18(channels: int, image_size: tuple[int, int], activation: str) -> PreActResNet:
    """Build the PreActResNet-18 of the robustness literature, with BatchNorm and activation before the pooling."""
    require_size("preactresnet18", image_size)
    return PreActResNet(channels, 64, (64, 128, 256, 512), 2, activation)
