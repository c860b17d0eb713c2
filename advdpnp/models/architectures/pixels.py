"""No network at all: the pixels are the features, so that prototypes are images."""

from torch import Tensor

from advdpnp.models.base import MODELS, Backbone


class Pixels(Backbone):
    """Images (n, c, h, w) to their pixels (n, c h w), in this order. There is nothing to learn.

    Args:
        channels: channels of the images.
        image_size: (h, w) in pixels.
    """

    def __init__(self, channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.width = channels * image_size[0] * image_size[1]

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to vectors (n, c h w)."""
        return x.flatten(1)


@MODELS.register(
    "pixels",
    description="the pixels themselves, without a network: prototypes are images; best with model.normalise=false",
    status="ours",
)
def pixels(channels: int, image_size: tuple[int, int]) -> Pixels:
    """Build it for images of any size."""
    return Pixels(channels, image_size)
