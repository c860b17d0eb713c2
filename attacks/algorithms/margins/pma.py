"""Probability margin attack: the margin between probabilities, in two parts and then whole (Xie et al. 2025)."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from advdpnp.attacks.algorithms.auto_pgd import apgd_t
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.losses import check_classes, own_logit
from advdpnp.attacks.norms import ascent_step, project, random_start
from advdpnp.attacks.protocol import ATTACKS, Loss, State, TargetableAttack
from advdpnp.attacks.rows import any_row, where_rows
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.randomness import Draw

REFERENCE = "Xie et al., Towards Million-Scale Adversarial Robustness Evaluation With Stronger Individual Attacks, 2025"


@dataclass(frozen=True)
class PMAState(State):
    """State of the probability margin attack.

    Attributes:
        x_adv: iterate to evaluate, (n, c, h, w).
        step, restart: index of the step and of the restart, int64 (n,).
    """

    x_adv: Tensor
    step: Tensor
    restart: Tensor


@dataclass(frozen=True)
class PMA(TargetableAttack):
    """Two restarts from uniform noise; steps of size eps (1 + cos), a cosine that begins again at half of the steps.

    The first step raises the probability of the label, p_y. Up to half of the steps, restart 0 lowers p_y and restart 1
    raises that of the most likely other class, p_m. The rest raises p_m - p_y, in both. Of each loss only the direction
    of its gradient counts, so log odds take the place of probabilities: see ``log_odds`` and ``margin_of``.

    Attributes:
        steps: gradient steps per restart.
        name: name in tables. The random streams depend on it.
    """

    steps: int = 100
    name: str = "pma"

    def definition(self) -> dict[str, Any]:
        return {
            "attack": "pma", "name": self.name, "steps": self.steps, "restarts": 2, "version": 1,
            **self.criterion.definition(),
        }  # fmt: skip

    def start(self, x: Tensor, y: Tensor, logits: Tensor | None, draw: Draw) -> PMAState:
        zeros = torch.zeros_like(y)
        first = random_start(x, self.threat, draw, zeros)
        return PMAState(x=x, y=y, done=zeros.bool(), draw=draw, x_adv=first, step=zeros, restart=zeros)

    def ask(self, state: PMAState) -> tuple[Tensor, Loss | None]:
        return state.x_adv, lambda logits: self.criterion.ascent(self._loss(state, logits))

    def _loss(self, state: PMAState, logits: Tensor) -> Tensor:
        other, lost = log_odds(logits, state.y)
        parts = torch.where(state.restart == 0, lost, other)
        loss = torch.where(2 * state.step < self.steps, parts, margin_of(other, lost))
        return torch.where(state.step == 0, -lost, loss)

    def tell(self, state: PMAState, logits: Tensor, gradient: Tensor | None, misclassified: Tensor) -> PMAState:
        assert gradient is not None
        half = self.steps / 2
        phase = (state.step - 1 - torch.where(state.step > half, half, 0)) * (math.pi / half)
        size = (self.threat.eps * (1 + torch.cos(phase)))[:, None, None, None].to(gradient.dtype)
        moved = project(ascent_step(state.x_adv, gradient, size, self.threat.norm), state.x, self.threat)
        again = state.step >= self.steps  # the last iterate of a restart was evaluated
        restart = state.restart + again.long()
        if any_row(again):
            moved = where_rows(again, random_start(state.x, self.threat, state.draw, restart), moved)
        step = torch.where(again, 0, state.step + 1)
        done = state.done | ((restart > 0) & (step >= self.steps))  # the engine evaluates the last iterate of all
        return replace(state, x_adv=moved, step=step, restart=restart, done=done)


def log_odds(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Log odds of the most likely other class, log(p_m / (1 - p_m)), and against the label, log((1 - p_y) / p_y).

    Both are differences of logits and of their log-sum-exp over the other classes: their gradients have the directions
    of those of p_m and -p_y and vanish at no scale of the logits, where probabilities round to 0 and 1.

    Args:
        logits: (n, classes).
        y: labels, int64 (n,).

    Returns:
        two tensors (n,).
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    likeliest = others.argmax(1)
    rest = logits.scatter(1, likeliest[:, None], -torch.inf)
    return own_logit(logits, likeliest) - rest.logsumexp(1), others.logsumexp(1) - own_logit(logits, y)


def margin_of(other: Tensor, lost: Tensor) -> Tensor:
    """A function whose gradient has the direction of that of p_m - p_y, (n,).

    The gradient of p is p (1 - p) times that of its log odds. Both weights are divided by the larger one, so that the
    larger part never underflows.

    Args:
        other, lost: what ``log_odds`` returns.
    """
    of_other, of_label = (logsigmoid(odds) + logsigmoid(-odds) for odds in (other.detach(), lost.detach()))
    larger = torch.maximum(of_other, of_label)
    return (of_other - larger).exp() * other + (of_label - larger).exp() * lost


@ATTACKS.register(
    "pma",
    description="probability margin attack: two restarts of 100 steps on p_max - p_y, computed in log odds",
    reference=REFERENCE,
)
def pma(threat: ThreatModel, classes: int) -> PMA:
    return PMA(threat)


@ATTACKS.register("pma-plus", description="PMA+: pma, then apgd-t", reference=REFERENCE)
def pma_plus(threat: ThreatModel, classes: int) -> AttackEnsemble:
    check_classes(classes, 4, "the targeted DLR loss", "use pma")
    return AttackEnsemble("pma-plus", (pma(threat, classes), apgd_t(threat, classes)), "apgd-t")
