"""The grid on which structured noise layers are generated.

Snow, spatter and the displacements of the elastic transform filter and threshold pixel noise. On the pixel grid of
larger images, the result would be finer and have far fewer flakes. The noise is therefore generated on a grid of about
32 pixels with the benchmark's constants, and enlarged linearly.
"""

from torch import Tensor

from advdpnp.corruption.operations.pixels import scale_of


def layer_size(images: Tensor) -> tuple[int, int]:
    """(height, width) of the grid, whose shorter side is 32, or that of the image if it is smaller."""
    scale = max(1.0, scale_of(images))
    height, width = images.shape[-2:]
    return round(height / scale), round(width / scale)
