"""A residual network with 0.1 million parameters, for robust training on a CPU."""

from torch import Tensor, nn
from torch.nn import functional

from advdpnp.models.architectures.resnet import BasicBlock, ConvShortcut
from advdpnp.models.base import ACTIVATIONS, MODELS, Backbone, initialise, require_size

_GRID = 8


class TinyResNet(Backbone):
    """A stem of stride 2 (8 channels), basic blocks of stride 2 and 1 (16 channels), a linear layer to 100 features.

    The layout is that of the "ResNet-2b" of the verification literature (Wang et al., beta-CROWN, 2021), with
    BatchNorm. The features are normalised and keep their sign. Feature maps of other sizes are average-pooled to 8x8.

    Args:
        channels: channels of the images.
        activation: a key of ``ACTIVATIONS``.
    """

    width = 100

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.activation = ACTIVATIONS[activation]()
        self.blocks = nn.Sequential(
            BasicBlock(8, 16, 2, ConvShortcut, activation), BasicBlock(16, 16, 1, ConvShortcut, activation)
        )
        self.linear = nn.Linear(16 * _GRID * _GRID, self.width, bias=False)
        self.norm = nn.BatchNorm1d(self.width)
        initialise(self.modules())

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to features (n, 100)."""
        h = self.blocks(self.activation(self.bn1(self.conv1(x))))
        if h.shape[2:] != (_GRID, _GRID):
            h = functional.adaptive_avg_pool2d(h, _GRID)
        features: Tensor = self.norm(self.linear(h.flatten(1)))
        return features


@MODELS.register(
    "tiny-resnet",
    description="stride-2 ResNet of two blocks, 100 features, 0.11 M parameters: for CPUs",
    status="ours",
    defaults={"activation": "relu"},
)
def tiny_resnet(channels: int, image_size: tuple[int, int], activation: str) -> TinyResNet:
    """Build the tiny ResNet for images of at least 8x8."""
    require_size("tiny-resnet", image_size)
    return TinyResNet(channels, activation)
