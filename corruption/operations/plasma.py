"""Batched plasma fractals on a torus, by the diamond-square algorithm (Fournier, Fussell and Carpenter, CACM 1982)."""

import torch
from torch import Tensor

from advdpnp.base.randomness import Draw

_FIRST_SPREAD = 100.0


def plasma(draw: Draw, size: int, decay: float) -> Tensor:
    """Height maps in [0, 1], one per sample.

    Args:
        draw: random streams of the samples.
        size: side in pixels, rounded up to a power of two.
        decay: the amplitude at a level is (100 / decay**level)**2; a smaller decay gives rougher maps.

    Returns:
        float32, shape (n, s, s) with s the power of two; each map has minimum 0 and maximum 1.
    """
    side = 1 << max(size - 1, 1).bit_length()
    n = len(draw.key)
    # float64, because heights start near 10,000 and must keep the finest details.
    heights = torch.zeros(n, side, side, dtype=torch.float64, device=draw.key.device)
    step, spread, level = side, _FIRST_SPREAD, 0
    while step >= 2:
        half, cells = step // 2, side // step
        wobble = (draw.uniform((3, cells, cells), level, dtype=torch.float64) * 2 - 1) * spread**2
        corner = heights[:, ::step, ::step]
        pairs = corner + corner.roll(-1, 1)
        centre = (pairs + pairs.roll(-1, 2)) / 4 + wobble[:, 0]
        heights[:, half::step, half::step] = centre
        heights[:, ::step, half::step] = (centre + centre.roll(1, 1) + corner + corner.roll(-1, 2)) / 4 + wobble[:, 1]
        heights[:, half::step, ::step] = (centre + centre.roll(1, 2) + corner + corner.roll(-1, 1)) / 4 + wobble[:, 2]
        step, spread, level = half, spread / decay, level + 1
    heights -= heights.amin((1, 2), keepdim=True)
    return (heights / heights.amax((1, 2), keepdim=True)).to(torch.float32)
