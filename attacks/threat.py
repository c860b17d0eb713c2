"""Threat models: the set of images that an adversary may use."""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from advdpnp.base.devices import has_float64, widest_float
from advdpnp.base.errors import AdvdpnpError

NORMS = ("linf", "l2", "l1", "l0")

Distances = TypeVar("Distances", Tensor, np.ndarray)

DEFAULT_EPS = {"linf": "8/255", "l2": "0.5", "l1": "12", "l0": "24"}
"""The radius where nobody names one: the usual ones of CIFAR-10."""


@dataclass(frozen=True)
class ThreatModel:
    """All images with values in [low, high] whose distance to the clean image is at most eps.

    Attributes:
        norm: "linf", "l2" or "l1", over all values of one image; "l0" counts pixels, see ``distance``.
        eps: radius of the ball, in units of pixel values in [0, 1]; for "l0", a number of pixels.
        text: eps as the user wrote it ("8/255").
        low, high: bounds of pixel values.
    """

    norm: str
    eps: float
    text: str
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def parse(cls, norm: str, eps: str | float) -> "ThreatModel":
        """Parse a norm ("linf", "Linf", "l2", "l1", "l0") and a radius, a number or a fraction such as "8/255".

        Raises:
            AdvdpnpError: the norm is unknown, eps is not a positive finite number, a Linf eps exceeds 1, or an L0 eps
                is not a whole number.
        """
        name, text = str(norm).strip().lower(), str(eps).strip()
        if name not in NORMS:
            meant = f"l{name.removesuffix('.0')}"  # numpy and torch write 2 and inf
            hint = f"write {meant}" if meant in NORMS else f"choose one of {', '.join(NORMS)}"
            raise AdvdpnpError(f"there is no norm called '{norm}'; {hint}")
        numerator, slash, denominator = text.partition("/")
        try:
            value = float(numerator) / float(denominator) if slash else float(numerator)
        except (ValueError, ZeroDivisionError):
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise AdvdpnpError(f"eps '{eps}' is not a positive number; write it as 0.03 or 8/255")
        if name == "linf" and value > 1:
            raise AdvdpnpError(
                f"a Linf eps of {text} exceeds the range of images, which is [0, 1]; did you mean {text}/255?"
            )
        if name == "l0" and not value.is_integer():
            raise AdvdpnpError(f"an L0 eps counts pixels, and {text} is no whole number of them; write for example 10")
        return cls(name, value, text)

    @property
    def label(self) -> str:
        """Label in tables: "linf 8/255"."""
        return f"{self.norm} {self.text}"

    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Norm of x_adv - x per sample, float64 (n,); computed on the CPU and float32 where a device has no float64.

        In float32 a sum of 3,072 squares has a visible rounding error. L0 is the number of pixels (positions) where any
        channel differs at all, as in the one-pixel attack and Croce and Hein, "Sparse and imperceivable adversarial
        attacks", 2019. It is never more than the number of values that differ, which sigma-zero and JSMA count.

        Args:
            x, x_adv: clean and perturbed images, (n, c, h, w).
        """
        place = x.device
        if not has_float64(place):
            x, x_adv = x.cpu(), x_adv.cpu()
        return _norm(x_adv.double() - x, self.norm).to(place, widest_float(place))  # x becomes float64 on the way

    def may_contain(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """False if x_adv is certainly outside the ball, bool (n,). Cheaper than ``contains`` and never stricter."""
        return _norm(x_adv - x, self.norm) <= self.eps * 1.001 + 1e-6

    def contains(self, x: Tensor, x_adv: Tensor, distance: Tensor | None = None) -> Tensor:
        """Whether each x_adv is within eps and the bounds, bool (n,).

        The tolerance is for float32: (x + eps) - x can exceed 8/255 by 2.8e-8.

        Args:
            x, x_adv: clean and perturbed images, (n, c, h, w).
            distance: result of ``distance``, (n,), if it is already known.
        """
        distance = self.distance(x, x_adv) if distance is None else distance
        lowest, highest = torch.aminmax(x_adv.flatten(1), dim=1)
        return self.in_ball(distance) & (lowest >= self.low) & (highest <= self.high)

    def in_ball(self, distance: Distances) -> Distances:
        """Whether each distance, (n,), is at most eps up to rounding, bool (n,). The bounds are not asked."""
        return distance <= self.eps * (1 + 1e-6) + 1e-7


def _norm(difference: Tensor, norm: str) -> Tensor:
    """Norm of each image, (n,). For Linf, two passes are faster than ``vector_norm`` of infinite order."""
    if norm == "l0":
        return (difference != 0).any(1).flatten(1).sum(1)
    flat = difference.flatten(1)
    if norm == "linf":
        return flat.abs().amax(1)
    distance: Tensor = torch.linalg.vector_norm(flat, ord=2 if norm == "l2" else 1, dim=1)
    return distance
