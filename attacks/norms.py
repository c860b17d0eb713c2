"""The geometry of each norm: where to start, which way is steepest, and how to come back into the ball.

Images are (n, c, h, w); every function works per sample and returns the shape it was given.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.randomness import Draw


def _l2(values: Tensor) -> Tensor:
    """L2 norm per sample, shaped (n, 1, 1, 1)."""
    norm: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norm.reshape(-1, *[1] * (values.dim() - 1))


def _linf_noise(x: Tensor, draw: Draw, *counters: int | Tensor) -> Tensor:
    return 2 * draw.uniform(tuple(x.shape[1:]), *counters, dtype=x.dtype) - 1


def _l2_noise(x: Tensor, draw: Draw, *counters: int | Tensor) -> Tensor:
    return draw.normal(tuple(x.shape[1:]), *counters, dtype=x.dtype)


def _linf_start(x: Tensor, threat: ThreatModel, draw: Draw, *counters: int | Tensor) -> Tensor:
    return _linf_noise(x, draw, *counters) * threat.eps


def _l2_start(x: Tensor, threat: ThreatModel, draw: Draw, *counters: int | Tensor) -> Tensor:
    """A random direction, with a radius uniform in [0, eps): uniform in the ball would nearly always be its surface."""
    direction = _l2_noise(x, draw, 0, *counters)
    radius = draw.uniform((1,) * (x.dim() - 1), 1, *counters, dtype=x.dtype)
    return direction / _l2(direction).clamp(min=1e-12) * radius * threat.eps


def _l2_direction(gradient: Tensor) -> Tensor:
    # Dividing by the largest entry first keeps the squares of tiny gradients (1e-30) from underflowing to zero.
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
    """One norm: the length of a perturbation, noise of no length in particular, a random perturbation in the ball, the
    steepest unit step for a gradient, the nearest in the ball.
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
    """A random image within eps of x and inside the box; ``counters`` tell draws of one row apart (restart)."""
    return (x + GEOMETRIES[threat.norm].start(x, threat, draw, *counters)).clamp(threat.low, threat.high)


def surface_start(x: Tensor, threat: ThreatModel, draw: Draw, *counters: int | Tensor) -> Tensor:
    """A random image at distance eps of x, before the box cuts it: where AutoAttack starts."""
    start = GEOMETRIES[threat.norm].noise(x, draw, *counters)
    size = length(start, threat.norm).clamp(min=1e-12)[:, None, None, None]
    return (x + start / size * threat.eps).clamp(threat.low, threat.high)


def length(delta: Tensor, norm: str) -> Tensor:
    """Length of each sample's perturbation in the norm, (n,)."""
    return GEOMETRIES[norm].length(delta)


def ascent_step(x_adv: Tensor, gradient: Tensor, step: float | Tensor, norm: str) -> Tensor:
    """Move by ``step``, measured in the norm (one for all, or (n, 1, 1, 1)), in the direction of steepest ascent."""
    return GEOMETRIES[norm].direction(gradient).mul_(step).add_(x_adv)


def project(x_adv: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    """Back within eps of x, then into the box. x lies in the box, so the second step can only come nearer to it."""
    return GEOMETRIES[threat.norm].project(x_adv - x, threat.eps).add_(x).clamp_(threat.low, threat.high)
