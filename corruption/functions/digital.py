"""Digital: contrast, pixelate, JPEG compression, saturate. Their constants do not depend on the image size."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advdpnp.base.randomness import Draw
from advdpnp.corruption.functions.noise import REFERENCE
from advdpnp.corruption.operations.pixels import to_levels, to_unit
from advdpnp.corruption.registry import declare


@declare(
    "contrast",
    group="digital",
    constants=((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
    description="lower contrast around the mean of each channel",
    reference=REFERENCE,
)
def contrast(images: Tensor, draw: Draw, factor: float) -> Tensor:
    """Scale each channel towards its mean over the image."""
    x = to_unit(images)
    # Integer sums do not depend on the order of summation, and so not on the batch.
    mean = images.sum((2, 3), keepdim=True, dtype=torch.int64).to(torch.float32) / (255 * images[0, 0].numel())
    return to_levels((x - mean) * factor + mean)


@declare(
    "saturate",
    group="digital",
    constants=((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    description="lower, then higher saturation (HSV)",
    reference=REFERENCE,
)
def saturate(images: Tensor, draw: Draw, scale: float, shift: float) -> Tensor:
    """S of HSV becomes S * scale + shift. As in the generator, a shift turns grey pixels red, because their hue is 0.

    Images with one channel have no saturation and do not change.
    """
    if images.shape[1] == 1:
        return images.clone()
    x = to_unit(images)
    value, darkest = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    range_ = value - darkest
    saturation = torch.where(value > 0, range_ / value, 0.0)
    changed = (saturation * scale + shift).clamp(0, 1)
    # At a fixed hue, each channel is below V by a fixed share of V * S.
    share = torch.where(range_ > 0, (value - x) / range_, torch.tensor([0.0, 1.0, 1.0], device=x.device)[:, None, None])
    return to_levels(value - share * (value * changed))


def _box_windows(size: int, target: int) -> list[tuple[int, int]]:
    """The first pixel and the number of pixels that each of ``target`` pixels averages in Pillow's box filter."""
    ratio = size / target
    half = 0.5 * max(ratio, 1.0)
    windows = []
    for index in range(target):
        centre = (index + 0.5) * ratio
        low, high = max(int(centre - half + 0.5), 0), min(int(centre + half + 0.5), size)
        inside = [i for i in range(low, high) if -0.5 < (i - centre + 0.5) / max(ratio, 1.0) <= 0.5]
        windows.append((inside[0], len(inside)))
    return windows


def _box_resize(levels: Tensor, height: int, width: int) -> Tensor:
    """Box-filter integer levels (n, c, h, w) to (n, c, height, width): first the width, rounding after each axis."""
    for axis, target in ((-1, width), (-2, height)):
        windows = _box_windows(levels.shape[axis], target)
        first = torch.tensor([low for low, _ in windows], device=levels.device)
        count = torch.tensor([number for _, number in windows], device=levels.device, dtype=torch.int32)
        column = count if axis == -1 else count[:, None]
        total = levels.index_select(axis, first)
        for step in range(1, int(count.max())):
            total = total + levels.index_select(axis, first + step * (count > step)) * (column > step)
        levels = (2 * total + column) // (2 * column)
    return levels


@declare(
    "pixelate",
    group="digital",
    constants=((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
    description="fewer, larger pixels",
    reference=REFERENCE,
)
def pixelate(images: Tensor, draw: Draw, scale: float) -> Tensor:
    """Box filter down to int(side * scale) and up again."""
    height, width = images.shape[-2:]
    small = _box_resize(images.to(torch.int32), int(height * scale), int(width * scale))
    return _box_resize(small, height, width).to(torch.uint8)


@declare(
    "jpeg_compression",
    group="digital",
    constants=((80,), (65,), (58,), (50,), (40,)),
    description="JPEG of low quality",
    reference=REFERENCE,
)
def jpeg_compression(images: Tensor, draw: Draw, quality: int) -> Tensor:
    """Encode and decode with Pillow on the CPU, one image at a time."""
    pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())
    decoded = np.empty_like(pixels)
    for before, after in zip(pixels, decoded, strict=True):
        with io.BytesIO() as buffer:
            Image.fromarray(before if before.shape[-1] == 3 else before[..., 0]).save(buffer, "JPEG", quality=quality)
            with Image.open(buffer) as picture:
                after[...] = np.asarray(picture).reshape(before.shape)
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).contiguous().to(images.device)
