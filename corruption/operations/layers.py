"""The grid on which random layers with structure are drawn.

Snow, spatter and the displacements of the elastic transform start from noise per pixel that is then filtered and cut
at thresholds. Were it drawn at every size on the image's own pixels, larger images would have finer and far fewer
flakes. So it is drawn on a grid of about 32 pixels with the benchmark's constants, and enlarged linearly.
"""

from torch import Tensor

from advdpnp.corruption.operations.pixels import scale_of


def layer_size(images: Tensor) -> tuple[int, int]:
    """(height, width) of the grid: shorter side 32, or the image's own where that is smaller."""
    scale = max(1.0, scale_of(images))
    height, width = images.shape[-2:]
    return round(height / scale), round(width / scale)
