"""A small convolutional network that can be trained robustly on a CPU."""

from torch import Tensor, nn
from torch.nn import functional

from advdpnp.models.base import ACTIVATIONS, MODELS, Backbone, initialise, require_size

_GRID = 4


class SmallCNN(Backbone):
    """Three 3x3 convolutions of stride 2 (32, 64, 128 channels), then a linear layer to 128 features.

    The features are normalised and keep their sign, because prototypes may point in any direction.

    Every stage halves the image before the number of channels grows. A 32x32 image costs 2.8 million multiplications,
    200 times fewer than in a ResNet-18. Feature maps of other sizes (images above 32 or below 25 pixels) are
    average-pooled to 4x4.

    Args:
        channels: channels of the images.
        activation: a key of ``ACTIVATIONS``.
    """

    width = 128

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        stages = ((channels, 32), (32, 64), (64, 128))
        self.stages = nn.Sequential(*(layer for sizes in stages for layer in _stage(*sizes, activation)))
        self.linear = nn.Linear(128 * _GRID * _GRID, self.width, bias=False)
        self.norm = nn.BatchNorm1d(self.width)
        initialise(self.modules())

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to features (n, 128)."""
        h = self.stages(x)
        if h.shape[2:] != (_GRID, _GRID):  # the backward pass of pooling is not deterministic on CUDA, even at 4x4
            h = functional.adaptive_avg_pool2d(h, _GRID)
        features: Tensor = self.norm(self.linear(h.flatten(1)))
        return features


def _stage(inputs: int, outputs: int, activation: str) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), ACTIVATIONS[activation](inplace=True)


@MODELS.register(
    "small-cnn",
    description="3 convolutions of stride 2, 128 features, 0.36 M parameters: for CPUs",
    status="ours",
    defaults={"activation": "relu"},
)
def small_cnn(channels: int, image_size: tuple[int, int], activation: str) -> SmallCNN:
    """Build the small CNN for images of at least 8x8."""
    require_size("small-cnn", image_size)
    return SmallCNN(channels, activation)
