"""Carlini and Wagner's L2 attack: a search in tanh space for the nearest adversarial image."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advdpnp.attacks.losses import margin
from advdpnp.attacks.protocol import ATTACKS, Loss, State, TargetableAttack
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.randomness import Draw

SHRINK = 0.8
"""Images use this share of tanh's range, so that a pixel of exactly 0 or 1 keeps a third of the slope and can move.

With 0.95 it keeps a tenth, and 100 steps of 0.02 move it by 0.15 at most.
"""


@dataclass(frozen=True)
class CWL2State(State):
    """State of Adam and of the bisection.

    Attributes:
        w: variable in tanh space, (n, c, h, w).
        mean, square: Adam's first and second moments, (n, c, h, w).
        iteration: Adam steps with the current constant, int64 (n,).
        search: constants tried so far, int64 (n,).
        constant: current constant, (n,).
        low, high: bounds of the bisection, (n,).
        hit: whether an iterate of the current constant was misclassified, bool (n,).
        scale: how far the clean image is from success, (n,); positive.
    """

    w: Tensor
    mean: Tensor
    square: Tensor
    iteration: Tensor
    search: Tensor
    constant: Tensor
    low: Tensor
    high: Tensor
    hit: Tensor
    scale: Tensor


@dataclass(frozen=True)
class CWL2(TargetableAttack):
    """Minimises distance**2 + constant * max(0, label's logit - largest other) by Adam, with bisection of the constant.

    Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks", 2017, section VI. The margin is divided
    by that of the clean image, so the attack is invariant to shift and scale of the logits. Each sample has its own
    constant. It changes tenfold until it is bracketed; then its logarithm is bisected. The engine keeps the nearest of
    all adversarial iterates.

    Attributes:
        searches: number of constants to try.
        iterations: Adam steps per constant.
        step_size: step size of Adam in tanh space; a cosine schedule reduces it to a hundredth. 100 steps of 0.05 take
            a pixel from 0 to 1.
        constant: first constant, in units of squared distance.
        name: name in tables. The random streams depend on it.
    """

    searches: int = 9
    iterations: int = 100
    step_size: float = 0.05
    constant: float = 1.0
    name: str = "cw-l2"

    norms = ("l2",)
    minimum_norm = True

    def definition(self) -> dict[str, Any]:
        return {
            "attack": "cw-l2", "searches": self.searches, "iterations": self.iterations, "step_size": self.step_size,
            "constant": self.constant, "version": 2, **self.criterion.definition(),
        }  # fmt: skip

    def start(self, x: Tensor, y: Tensor, logits: Tensor | None, draw: Draw) -> CWL2State:
        assert logits is not None, "cw-l2 needs the logits of the clean images"
        scale = -self.criterion.ascent(margin(logits, y))
        count, none, zero = torch.zeros_like(y), torch.zeros_like(y).bool(), torch.zeros_like(scale)
        w = self._to_tanh(x)
        return CWL2State(
            x=x,
            y=y,
            done=none,
            draw=draw,
            w=w,
            mean=torch.zeros_like(w),
            square=torch.zeros_like(w),
            iteration=count,
            search=count,
            constant=zero + self.constant,
            low=zero,
            high=zero + torch.inf,
            hit=none,
            scale=scale.clamp(min=torch.finfo(scale.dtype).tiny),
        )

    def ask(self, state: CWL2State) -> tuple[Tensor, Loss | None]:
        return self._to_image(state.w), lambda logits: self._lead(state, logits).clamp(max=0) / state.scale

    def _lead(self, state: CWL2State, logits: Tensor) -> Tensor:
        """How far the success is passed, (n,): the margin, or the target's logit minus the largest other."""
        return self.criterion.ascent(margin(logits, state.y))

    def tell(self, state: CWL2State, logits: Tensor, gradient: Tensor | None, misclassified: Tensor) -> CWL2State:
        assert gradient is not None
        tanh = torch.tanh(state.w)
        image_gradient = 2 * (self._to_image(state.w) - state.x) - _column(state.constant) * gradient
        slope = image_gradient * (1 - tanh**2) * self._width / SHRINK / 2
        mean = 0.9 * state.mean + 0.1 * slope
        square = 0.999 * state.square + 0.001 * slope**2
        iteration = state.iteration + 1
        rate = self.step_size * (0.505 + 0.495 * torch.cos(math.pi * state.iteration / self.iterations))
        step = (mean / _column(1 - 0.9**iteration)) / ((square / _column(1 - 0.999**iteration)).sqrt() + 1e-12)
        bound = math.atanh(SHRINK)
        w = (state.w - _column(rate).to(step.dtype) * step).clamp(-bound, bound)
        moved = replace(state, w=w, mean=mean, square=square, iteration=iteration, hit=state.hit | misclassified)
        return self._next_constant(moved, iteration >= self.iterations)

    def _next_constant(self, state: CWL2State, ended: Tensor) -> CWL2State:
        """Where ``ended``: bisect the constant and restart at the clean image. The last search keeps its last image."""
        high = torch.where(ended & state.hit, torch.minimum(state.constant, state.high), state.high)
        low = torch.where(ended & ~state.hit, torch.maximum(state.constant, state.low), state.low)
        bisected = torch.where(
            torch.isinf(high), 10 * state.constant, torch.where(low == 0, state.constant / 10, (low * high).sqrt())
        )
        search = state.search + ended.long()
        done = state.done | (search >= self.searches)
        again = ended & ~done
        clean, restart = self._to_tanh(state.x), _column(again)
        return replace(
            state, done=done, search=search, low=low, high=high, hit=state.hit & ~again,
            constant=torch.where(again, bisected, state.constant), iteration=torch.where(again, 0, state.iteration),
            w=torch.where(restart, clean, state.w), mean=torch.where(restart, 0, state.mean),
            square=torch.where(restart, 0, state.square),
        )  # fmt: skip

    @property
    def _width(self) -> float:
        return self.threat.high - self.threat.low

    def _to_tanh(self, x: Tensor) -> Tensor:
        return torch.atanh(SHRINK * (2 * (x - self.threat.low) / self._width - 1))

    def _to_image(self, w: Tensor) -> Tensor:
        image = self.threat.low + (torch.tanh(w) / SHRINK + 1) * self._width / 2
        return image.clamp(self.threat.low, self.threat.high)  # against rounding


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]


@ATTACKS.register(
    "cw-l2",
    description="Carlini and Wagner's minimum-norm attack under L2: 9 constants, 100 Adam steps each",
    reference="Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, 2017",
)
def cw_l2(threat: ThreatModel, classes: int) -> CWL2:
    return CWL2(threat)
