"""Conversions between 8-bit levels and numbers in [0, 1], grey and colour, and the scale of lengths."""

import torch
from torch import Tensor

BENCHMARK_SIZE = 32
"""The image size, in pixels, for which lengths among the constants are given."""

LUMA = (0.299, 0.587, 0.114)

_ROUNDING = 1e-4
"""In levels; above the rounding errors of float32 and far below a visible change (see `to_levels`)."""


def to_unit(images: Tensor) -> Tensor:
    """uint8 levels to float32 in [0, 1]."""
    return images.to(torch.float32) / 255


def to_levels(x: Tensor) -> Tensor:
    """Clip to [0, 1] and truncate to uint8, as the benchmark's generator does.

    A value just below a whole level, as float32 rounding may leave it, becomes that level. Otherwise, the same value
    could become 99 on one device and 100 on another.
    """
    return (x.clamp(0, 1) * 255 + _ROUNDING).to(torch.uint8)


def scale_of(images: Tensor) -> float:
    """The factor for lengths of the 32x32 benchmark: the shorter side of the images / 32."""
    return min(images.shape[-2:]) / BENCHMARK_SIZE


def grey(x: Tensor) -> Tensor:
    """Luma (ITU-R 601) of (n, 3, h, w), or the only channel of (n, 1, h, w); shape (n, 1, h, w)."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.unbind(1)
    return (red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]).unsqueeze(1)


def colour(rgb: tuple[float, float, float], like: Tensor) -> Tensor:
    """A colour, 0 to 255 per channel, as float32 (c, 1, 1) in [0, 1]; its luma if ``like`` has one channel."""
    x = torch.tensor(rgb, device=like.device).div(255).reshape(1, 3, 1, 1)
    return (x if like.shape[1] == 3 else grey(x))[0]
