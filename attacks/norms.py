"""The geometry of each norm: random starts, steepest directions and projections.

Images are (n, c, h, w) in [0, 1]. Every function works per sample.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.randomness import Draw


def _l2(values: Tensor) -> Tensor:
    """L2 norm per sample, (n, 1, 1, 1)."""
    norm: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norm.reshape(-1, *[1] * (values.dim() - 1))


def _linf_noise(x: Tensor, draw: Draw, *counters: int | Tensor) -> Tensor:
    return 2 * draw.uniform(tuple(x.shape[1:]), *counters, dtype=x.dtype) - 1


def _l2_noise(x: Tensor, draw: Draw, *counters: int | Tensor) -> Tensor:
    return draw.normal(tuple(x.shape[1:]), *counters, dtype=x.dtype)


def _linf_start(x: Tensor, threat: ThreatModel, draw: Draw, *counters: int | Tensor) -> Tensor:
    return _linf_noise(x, draw, *counters) * threat.eps


def _l2_start(x: Tensor, threat: ThreatModel, draw: Draw, *counters: int | Tensor) -> Tensor:
    """A random direction with a radius uniform in [0, eps).

    In high dimensions, uniform points of the ball lie near its surface.
    """
    direction = _l2_noise(x, draw, 0, *counters)
    radius = draw.uniform((1,) * (x.dim() - 1), 1, *counters, dtype=x.dtype)
    return direction / _l2(direction).clamp(min=1e-12) * radius * threat.eps


def _l2_direction(gradient: Tensor) -> Tensor:
    # Divide by the largest entry first: the squares of tiny gradients (1e-30) would underflow to zero.
    largest = gradient.abs().flatten(1).amax(1).reshape(-1, *[1] * (gradient.dim() - 1))
    scaled = gradient / torch.where(largest > 0, largest, 1)
    norm = _l2(scaled)
    return scaled / torch.where(norm > 0, norm, 1)


def _linf_project(delta: Tensor, eps: float) -> Tensor:
    return delta.clamp(-eps, eps)


def _l2_project(delta: Tensor, eps: float) -> Tensor:
    return delta * (eps / _l2(delta).clamp(min=eps))


def _linf_length(delta: Tensor) -> Tensor:
    return delta.abs().flatten(1).amax(1)


def _l2_length(delta: Tensor) -> Tensor:
    return _l2(delta).flatten()


@dataclass(frozen=True)
class Geometry:
    """The functions of one norm.

    Attributes:
        length: length of each perturbation, (n,).
        noise: random perturbation of arbitrary length, (n, c, h, w).
        start: random perturbation within eps, (n, c, h, w).
        direction: steepest step of length 1 for a gradient, (n, c, h, w).
        project: nearest perturbation within eps, (n, c, h, w).
    """

    length: Callable[[Tensor], Tensor]
    noise: Callable[..., Tensor]
    start: Callable[..., Tensor]
    direction: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, float], Tensor]


GEOMETRIES = {
    "linf": Geometry(_linf_length, _linf_noise, _linf_start, torch.sign, _linf_project),
    "l2": Geometry(_l2_length, _l2_noise, _l2_start, _l2_direction, _l2_project),
}


def random_start(x: Tensor, threat: ThreatModel, draw: Draw, *counters: int | Tensor) -> Tensor:
    """A random image within eps of x and inside the bounds, (n, c, h, w).

    Args:
        x: clean images, (n, c, h, w).
        threat: norm, eps and bounds.
        draw: random stream of each row.
        counters: distinguish the draws of one row (its restart); each an int, or int64 (n,).
    """
    return (x + GEOMETRIES[threat.norm].start(x, threat, draw, *counters)).clamp(threat.low, threat.high)


def surface_start(x: Tensor, threat: ThreatModel, draw: Draw, *counters: int | Tensor) -> Tensor:
    """A random image at distance eps from x, then clipped to the bounds, as AutoAttack starts. Arguments as above."""
    start = GEOMETRIES[threat.norm].noise(x, draw, *counters)
    size = length(start, threat.norm).clamp(min=1e-12)[:, None, None, None]
    return (x + start / size * threat.eps).clamp(threat.low, threat.high)


def length(delta: Tensor, norm: str) -> Tensor:
    """Length of each perturbation under ``norm``, (n,)."""
    return GEOMETRIES[norm].length(delta)


def ascent_step(x_adv: Tensor, gradient: Tensor, step: float | Tensor, norm: str) -> Tensor:
    """Move by ``step`` in the direction of steepest ascent. The step size is one number, or (n, 1, 1, 1)."""
    return GEOMETRIES[norm].direction(gradient).mul_(step).add_(x_adv)


def project(x_adv: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    """Project onto the eps-ball around x, then clip to the bounds. x is within them, so clipping stays in the ball."""
    return GEOMETRIES[threat.norm].project(x_adv - x, threat.eps).add_(x).clamp_(threat.low, threat.high)
