"""Targeted FAB: steps to the linearised decision boundary with a bias to the clean image (Croce and Hein 2020)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advdpnp.attacks.algorithms.fab_projection import project_to_hyperplane
from advdpnp.attacks.criteria import Targeted, likely_targets, target_of
from advdpnp.attacks.losses import margin, own_logit
from advdpnp.attacks.norms import length
from advdpnp.attacks.protocol import ATTACKS, Loss, State, TargetableAttack
from advdpnp.attacks.rows import any_row, where_rows
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.randomness import Draw

_OVERSHOOT = 1.05  # eta: step length relative to the distance to the boundary
_BACKWARD = 0.9  # beta: share of its perturbation that a misclassified iterate keeps
_LARGEST_BIAS = 0.1  # alpha_max: largest weight of the projection of the clean image
_TINY = 1e-8


@dataclass(frozen=True)
class FABState(State):
    """State of FAB.

    Attributes:
        x_adv: image to evaluate, (n, c, h, w).
        placed: bool (n,). True: the next step starts at ``x_adv``, so its gradient is needed. False: ``x_adv`` is the
            result of a step, and only its prediction is needed.
        iteration: steps in this run, int64 (n,).
        run: index of the target, int64 (n,).
        targets: target class of each run, int64 (n, runs).
    """

    x_adv: Tensor
    placed: Tensor
    iteration: Tensor
    run: Tensor
    targets: Tensor


@dataclass(frozen=True)
class FAB(TargetableAttack):
    """Targeted FAB. Each step needs the gradient of a single difference of logits.

    Attributes:
        threat: Linf or L2.
        iterations: steps per target.
        runs: number of targets.
        name: name in tables. The random streams depend on it.
    """

    iterations: int = 100
    runs: int = 9
    name: str = "fab-t"

    gradient_period = 2

    def targeted(self, criterion: Targeted) -> "FAB":
        return replace(super().targeted(criterion), runs=1)

    def definition(self) -> dict[str, Any]:
        return {
            "attack": "fab-t",
            "name": self.name,
            "iterations": self.iterations,
            "runs": self.runs,
            "overshoot": _OVERSHOOT,
            "backward": _BACKWARD,
            "largest_bias": _LARGEST_BIAS,
            "version": 1,
            **self.criterion.definition(),
        }

    def start(self, x: Tensor, y: Tensor, logits: Tensor | None, draw: Draw) -> FABState:
        if logits is None:
            raise ValueError("a targeted attack needs the logits of the clean images")
        zero = torch.zeros_like(y)
        return FABState(
            x=x,
            y=y,
            done=zero.bool(),
            draw=draw,
            x_adv=x,
            placed=~zero.bool(),
            iteration=zero,
            run=zero,
            targets=y[:, None] if self.criterion.targets else likely_targets(logits, y, self.runs),
        )

    def ask(self, state: FABState) -> tuple[Tensor, Loss | None]:
        return state.x_adv, lambda logits: self._lead(state, logits)

    def _lead(self, state: FABState, logits: Tensor) -> Tensor:
        """Target's logit minus the label's, (n,): positive beyond the decision boundary between the two classes.

        To be predicted, a target of the criterion must beat every class, so its logit minus the largest other.
        """
        if self.criterion.targets:
            return self.criterion.ascent(margin(logits, state.y))
        return own_logit(logits, target_of(state.targets, state.run)) - own_logit(logits, state.y)

    def wants_gradient(self, state: FABState) -> Tensor:
        """Rows that start a step, bool (n,). The image after a step needs only its prediction."""
        return state.placed

    def tell(self, state: FABState, logits: Tensor, gradient: Tensor | None, misclassified: Tensor) -> FABState:
        x_adv, stepping = state.x_adv, state.placed
        run_ended = torch.gt(state.iteration >= self.iterations, stepping)
        back = torch.gt(misclassified, stepping)
        if any_row(back):
            x_adv = where_rows(back, (x_adv - state.x).mul_(_BACKWARD).add_(state.x), x_adv)
        if gradient is not None and any_row(stepping):
            lead = self._lead(state, logits).to(state.x.dtype)
            x_adv = where_rows(stepping, self._step(state.x, state.x_adv, lead, gradient), x_adv)
        run = state.run + run_ended
        return replace(
            state,
            x_adv=where_rows(run_ended, state.x, x_adv) if any_row(run_ended) else x_adv,
            placed=~stepping,
            iteration=(state.iteration + stepping).masked_fill_(run_ended, 0),
            run=run,
            done=state.done | (run >= self.runs),
        )

    def _step(self, x: Tensor, x_adv: Tensor, lead: Tensor, gradient: Tensor) -> Tensor:
        """Move between the boundary points nearest to the iterate and to the clean image (equations 9 to 11)."""
        norm, low, high = self.threat.norm, self.threat.low, self.threat.high
        level = (gradient * x_adv).flatten(1).sum(1) - lead
        starts = torch.stack([x_adv, x])
        deltas = project_to_hyperplane(starts, gradient, level, norm, low, high)
        distances = length(deltas.flatten(0, 1), norm).clamp_(min=_TINY).view(2, -1, 1, 1, 1)
        bias = (distances[0] / distances.sum(0)).clamp_(max=_LARGEST_BIAS)
        from_iterate, from_clean = deltas.mul_(_OVERSHOOT).add_(starts).unbind(0)
        return from_iterate.mul_(1 - bias).add_(from_clean.mul_(bias)).clamp_(low, high)


@ATTACKS.register(
    "fab-t",
    description="FAB for each of up to 9 target classes, 100 steps",
    reference="Croce and Hein, Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack, 2020",
)
def fab_t(threat: ThreatModel, classes: int) -> FAB:
    return FAB(threat, runs=min(9, classes - 1))
