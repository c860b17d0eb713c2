"""Spatter: drops of water or mud on the lens."""

import torch
from torch import Tensor

from advdpnp.base.randomness import Draw
from advdpnp.corruption.functions.noise import REFERENCE
from advdpnp.corruption.operations import filters
from advdpnp.corruption.operations.edges import canny, distance_to
from advdpnp.corruption.operations.layers import layer_size
from advdpnp.corruption.operations.pixels import colour, scale_of, to_levels, to_unit
from advdpnp.corruption.registry import declare

WATER = (175.0, 238.0, 238.0)
MUD = (63.0, 42.0, 20.0)

_FARTHEST = 20
"""Upper limit of distances to a drop's edge, in pixels at any image size."""

_MUD_MINIMUM = 0.8
_LIGHT = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))
"""Emboss filter, which lights drops from one corner."""


def equalise(levels: Tensor) -> Tensor:
    """Equalise the histogram of each image, uint8 (n, 1, h, w); constant images do not change."""
    n = len(levels)
    flat = levels.reshape(n, -1).long()
    counts = torch.zeros(n, 256, dtype=torch.int64, device=levels.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    running = counts.cumsum(1)
    lowest = counts.gather(1, flat.amin(1, keepdim=True))
    above = flat.shape[1] - lowest
    table = ((running - lowest).clamp(min=0).double() * 255 / above.clamp(min=1) + 0.5).floor().long()
    return torch.where(above > 0, table.gather(1, flat), flat).to(torch.uint8).reshape(levels.shape)


def _mean_3x3(x: Tensor) -> Tensor:
    """Mean of 3x3 pixels, with mirrored borders."""
    padded = filters.pad(x, 1, "mirror")
    return filters.correlate_valid(filters.correlate_valid(padded, (1.0, 1.0, 1.0), -1), (1.0, 1.0, 1.0), -2) / 9


def _emboss(levels: Tensor) -> Tensor:
    """Correlation with the emboss filter in integer arithmetic, clipped to levels."""
    height, width = levels.shape[-2:]
    padded = filters.pad(levels.to(torch.int32), 1, "mirror")
    total = torch.zeros_like(levels, dtype=torch.int32)
    for dy, row in enumerate(_LIGHT):
        for dx, weight in enumerate(row):
            total += padded[..., dy : dy + height, dx : dx + width] * weight
    return total.clamp(0, 255)


def _water(layer: Tensor, threshold: float, strength: float) -> Tensor:
    """The amount of water on each pixel: the layer, shaded by the distance to the drops' edges."""
    levels = to_levels(layer.masked_fill(layer < threshold, 0))
    distance = distance_to(canny(levels, 50, 150), _FARTHEST)
    shade = equalise((_mean_3x3(distance) + 1e-5).to(torch.uint8))
    shade = (_mean_3x3(_emboss(shade).to(torch.float32)) + 0.5).floor()
    cover = levels.to(torch.float32) * shade
    peak = cover.amax((1, 2, 3), keepdim=True)
    return cover / peak.clamp(min=1) * strength


@declare(
    "spatter",
    group="weather",
    constants=(
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    description="drops on the lens: water at severity 1 to 3, mud at 4 and 5",
    reference=REFERENCE,
)
def spatter(
    images: Tensor,
    draw: Draw,
    mean: float,
    deviation: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: int,
) -> Tensor:
    """Add water, or replace the image by mud, where a blurred layer of normal noise exceeds the threshold.

    As in the generator, the shading of water uses windows of 3x3 pixels at any size. On larger images it is therefore
    finer, and water adds up to 50 % more.
    """
    x = to_unit(images)
    layer = draw.normal((1, *layer_size(images))) * deviation + mean
    layer = filters.enlarge(filters.gaussian_filter(layer, sigma), *images.shape[-2:])
    if not mud:
        return to_levels(x + _water(layer, threshold, strength) * colour(WATER, x))
    cover = filters.gaussian_filter((layer > threshold).to(torch.float32), strength * scale_of(images))
    cover = cover.masked_fill(cover < _MUD_MINIMUM, 0)
    return to_levels(x * (1 - cover) + cover * colour(MUD, x))
