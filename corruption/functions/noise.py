"""Noise: gaussian, shot, impulse, speckle. Values change independently, so the constants do not depend on the size."""

from functools import lru_cache

import torch
from torch import Tensor

from advdpnp.base.randomness import Draw
from advdpnp.corruption.operations.pixels import to_levels, to_unit
from advdpnp.corruption.registry import declare

REFERENCE = "Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions, ICLR 2019"

_PRECISION = 40
"""Bits of the uniform numbers that select a Poisson count."""


def _shape(images: Tensor) -> tuple[int, ...]:
    return tuple(images.shape[1:])


@declare(
    "gaussian_noise",
    group="noise",
    constants=((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
    description="normal noise on every value",
    reference=REFERENCE,
)
def gaussian_noise(images: Tensor, draw: Draw, deviation: float) -> Tensor:
    """Add normal noise of this standard deviation (images in [0, 1])."""
    return to_levels(to_unit(images) + draw.normal(_shape(images)) * deviation)


@declare(
    "speckle_noise",
    group="noise",
    constants=((0.06,), (0.10,), (0.12,), (0.16,), (0.20,)),
    description="normal noise proportional to the value",
    reference=REFERENCE,
)
def speckle_noise(images: Tensor, draw: Draw, deviation: float) -> Tensor:
    """Add normal noise of this standard deviation, multiplied by x (images in [0, 1])."""
    x = to_unit(images)
    return to_levels(x + x * (draw.normal(_shape(images)) * deviation))


@declare(
    "impulse_noise",
    group="noise",
    constants=((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
    description="salt and pepper on single values",
    reference=REFERENCE,
)
def impulse_noise(images: Tensor, draw: Draw, amount: float) -> Tensor:
    """Set this share of all values to 0 or 255, with equal probability."""
    chance = draw.uniform(_shape(images))
    return images.masked_fill(chance < amount, 255).masked_fill(chance < amount / 2, 0)


@lru_cache(maxsize=16)
def _poisson_table(count: int) -> tuple[Tensor, Tensor]:
    """The cumulative distributions of Poisson(count * level / 255) for all 256 levels, as one ascending table.

    Returns:
        int64 (256 * count,): (l + P(N <= m)) * 2**40 for level l and m = 0..count-1; and uint8 (count + 1,): the level
        of m / count (larger counts are clipped to ``count``, so the table ends there).
    """
    from scipy.special import pdtr  # here: importing it takes longer than all else of this module

    level = torch.arange(256, dtype=torch.float64)[:, None]
    outcome = torch.arange(count, dtype=torch.float64)[None]
    below = torch.from_numpy(pdtr(outcome.numpy(), (level * count / 255).numpy()))
    boundaries = (level.long() << _PRECISION) + (below * 2.0**_PRECISION).round().long()
    levels = to_levels(torch.arange(count + 1, dtype=torch.float64) / count)
    return boundaries.flatten(), levels


@declare(
    "shot_noise",
    group="noise",
    constants=((500,), (250,), (100,), (75,), (50,)),
    description="Poisson noise of a low photon count",
    reference=REFERENCE,
)
def shot_noise(images: Tensor, draw: Draw, photons: int) -> Tensor:
    """Poisson(photons * x) / photons, exact, by inverting the cumulative distribution of each of the 256 levels."""
    boundaries, levels = (table.to(images.device) for table in _poisson_table(photons))
    level = images.long()
    key = (level << _PRECISION) + (draw.bits(_shape(images)) >> (63 - _PRECISION))
    counts = torch.searchsorted(boundaries, key, right=True) - level * photons
    return levels[counts]
