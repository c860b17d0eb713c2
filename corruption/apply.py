"""Corrupt a batch of images."""

import torch
from torch import Tensor

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import Draw, seed_of
from advdpnp.corruption.registry import find_corruption

_VALUES_AT_ONCE = {"cpu": 1 << 18}
"""Numbers processed at once, limited by the cache of a CPU or the memory of a GPU."""
_VALUES_AT_ONCE_ELSEWHERE = 1 << 25

SMALLEST = 8


def corrupt(images: Tensor, name: str, severity: int, *, seed: int = 0, sample: Tensor | None = None) -> Tensor:
    """Apply one corruption at one severity.

    Args:
        images: uint8, shape (n, c, h, w), 1 or 3 channels, sides of at least 8 pixels, on any device.
        name: a registered corruption ("gaussian_noise").
        severity: 1 to 5.
        seed: seed of the random numbers.
        sample: int64, shape (n,): index of each image in its data set; 0 to n - 1 by default. A corrupted image depends
            on (seed, name, severity, sample index) and its pixels, never on the other images of the batch.

    Returns:
        uint8, same shape and device.

    Raises:
        AdvdpnpError: unknown name, severity out of range, images of another type or shape, or an operation that fails
            or returns other images.

    The corruptions and their constants are those of Hendrycks and Dietterich (ICLR 2019) for 32x32 images; for other
    sizes, lengths are multiplied by (shorter side / 32).
    """
    corruption = find_corruption(name)
    corruption.constants_at(severity)
    check_images(images)
    n = len(images)
    if sample is None:
        sample = torch.arange(n)
    if sample.shape != (n,) or sample.dtype != torch.int64:
        raise AdvdpnpError(f"sample indices must be {n} int64 numbers, one per image, not {_describe(sample)}")
    if not n:
        return images.clone()
    draw = Draw.of(seed_of("corruption", name, severity, seed), sample.to(images.device))
    size = max(1, _VALUES_AT_ONCE.get(images.device.type, _VALUES_AT_ONCE_ELSEWHERE) // images[0].numel())
    with torch.no_grad():
        parts = [
            # A copy, because operations may modify their input.
            corruption(
                images[start : start + size].clone(memory_format=torch.contiguous_format),
                severity,
                draw[start : start + size],
            )
            for start in range(0, n, size)
        ]
    return torch.cat(parts)


def check_images(images: Tensor) -> None:
    """Reject images that corruptions do not accept.

    Raises:
        AdvdpnpError: the images are not uint8 of shape (n, 1 or 3, h, w), or too small.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise AdvdpnpError(
            f"corruptions take uint8 images of shape (n, 1 or 3, height, width), not {_describe(images)}; "
            "convert them (scale and round them if they are in [0, 1])"
        )
    if min(images.shape[-2:]) < SMALLEST:
        raise AdvdpnpError(
            f"images of {images.shape[-2]}x{images.shape[-1]} pixels are too small for corruptions; "
            f"resize them to at least {SMALLEST} pixels per side"
        )


def _describe(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
