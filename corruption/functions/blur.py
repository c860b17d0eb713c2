"""Blur: gaussian, defocus, glass, motion, zoom. Every length is multiplied by size / 32; zoom factors are ratios."""

import numpy as np
import torch
from torch import Tensor

from advdpnp.base.randomness import Draw
from advdpnp.corruption.functions.noise import REFERENCE
from advdpnp.corruption.operations import filters
from advdpnp.corruption.operations.pixels import scale_of, to_levels, to_unit
from advdpnp.corruption.registry import declare


@declare(
    "gaussian_blur",
    group="blur",
    constants=((0.4,), (0.6,), (0.7,), (0.8,), (1.0,)),
    description="Gaussian filter",
    reference=REFERENCE,
)
def gaussian_blur(images: Tensor, draw: Draw, sigma: float) -> Tensor:
    """Gaussian filter per channel; sigma in pixels of a 32x32 image."""
    return to_levels(filters.gaussian_filter(to_unit(images), sigma * scale_of(images)))


@declare(
    "defocus_blur",
    group="blur",
    constants=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    description="blur of a lens that is out of focus",
    reference=REFERENCE,
)
def defocus_blur(images: Tensor, draw: Draw, radius: float, alias: float) -> Tensor:
    """Mean over a disk, smoothed by a Gaussian of standard deviation ``alias`` (3x3 pixels at 32x32)."""
    scale = scale_of(images)
    window = max(1, round(scale))
    padded = filters.pad(images, int(radius * scale) + window, "mirror")
    sums, count = filters.disk_sums(padded, radius * scale)
    x = sums.to(torch.float32) / (255 * count)
    kernel = filters.gaussian_kernel(alias * scale, window)
    return to_levels(filters.correlate_valid(filters.correlate_valid(x, kernel, -1), kernel, -2))


def _exchange(levels: Tensor, draw: Draw, reach: int, turn: int) -> Tensor:
    """Replace each pixel, from the bottom right to the top left, by one at a random shift in [-reach, reach).

    If the source pixel was replaced earlier, its new value is used, which is again the value of some original pixel.
    Following these chains by pointer doubling replaces the loop over pixels.
    """
    n, c, h, w = levels.shape
    shift = draw.integers((2, h, w), 2 * reach, turn) - reach
    rows, columns = torch.arange(h, device=levels.device)[:, None], torch.arange(w, device=levels.device)[None]
    inside = (rows > reach) & (rows <= h - reach) & (columns > reach) & (columns <= w - reach)
    place = rows * w + columns
    source = torch.where(inside, place + shift[:, 0] * w + shift[:, 1], place).reshape(n, h * w)
    # `last`: the end of the chain of sources that were replaced earlier, that is, that have a larger index.
    last = torch.maximum(source, place.reshape(1, -1))
    while reach > 1:
        further = last.gather(1, last)
        if torch.equal(further, last):
            break
        last = further
    origin = source.gather(1, last) if reach > 1 else source
    return levels.reshape(n, c, -1).gather(2, origin[:, None].expand(n, c, -1)).reshape(n, c, h, w)


@declare(
    "glass_blur",
    group="blur",
    constants=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    description="exchange of nearby pixels, as seen through frosted glass",
    reference=REFERENCE,
)
def glass_blur(images: Tensor, draw: Draw, sigma: float, reach: int, passes: int) -> Tensor:
    """Gaussian filter, truncation to levels, random exchange of nearby pixels, Gaussian filter.

    As in the benchmark's generator, the exchange only copies, because the second half of each swap reads the value that
    the first half has just written.
    """
    scale = scale_of(images)
    levels = to_levels(filters.gaussian_filter(to_unit(images), sigma * scale))
    for turn in range(passes):
        levels = _exchange(levels, draw, max(1, round(reach * scale)), turn)
    return to_levels(filters.gaussian_filter(to_unit(levels), sigma * scale))


@declare(
    "motion_blur",
    group="blur",
    constants=((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),
    description="camera movement along a random direction",
    reference=REFERENCE,
)
def motion_blur(images: Tensor, draw: Draw, radius: float, sigma: float) -> Tensor:
    """One-sided Gaussian line blur along an angle in [-45, 45) degrees."""
    scale = scale_of(images)
    angle = draw.uniform((), dtype=torch.float64) * 90 - 45
    return filters.motion_blur(images, radius * scale, sigma * scale, angle)


@declare(
    "zoom_blur",
    group="blur",
    constants=((1.06,), (1.11,), (1.16,), (1.21,), (1.26,)),
    description="camera movement towards the scene",
    reference=REFERENCE,
)
def zoom_blur(images: Tensor, draw: Draw, end: float) -> Tensor:
    """Mean of the image and of its centre-cropped enlargements by 1, 1.01, 1.02, ... up to ``end``, exclusive."""
    # The floating-point range of the generator: because of rounding it includes 1.06 and 1.11, and the last digit
    # decides how many pixels an enlargement by 1.25 has.
    factors = np.arange(1, end, 0.01).tolist()
    # With the spatial axes first, interpolation copies whole rows of memory, which is faster.
    x = to_unit(images).permute(2, 3, 0, 1).contiguous()
    total = x.clone()
    for factor in factors:
        total += filters.zoom(x, factor, axes=(0, 1))
    return to_levels(total / (len(factors) + 1)).permute(2, 3, 0, 1).contiguous()
