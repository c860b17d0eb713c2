"""Auto-PGD: projected gradient ascent with momentum and an adaptive step size (Croce and Hein 2020, algorithm 1)."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor

from advdpnp.attacks.criteria import Targeted, likely_targets, target_of
from advdpnp.attacks.losses import LOSSES, TARGETED_LOSSES
from advdpnp.attacks.norms import ascent_step, project, surface_start
from advdpnp.attacks.protocol import PREPARED_FOR, Loss, State, TargetableAttack
from advdpnp.attacks.rows import any_row, weights, where_rows
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import Draw

REFERENCE = "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Attacks, 2020"
TARGETED_DLR, TARGETED_MARGIN = "dlr-targeted", "margin-targeted"
_MOMENTUM = 0.75  # alpha: weight of the new step; the rest is the weight of the last move (equation 3)
_RISING = 0.75  # rho: the step size is halved if a smaller share of steps raised the loss (condition 1)


@dataclass(frozen=True)
class APGDState(State):
    """State of Auto-PGD.

    Attributes:
        x_adv: iterate to evaluate, (n, c, h, w).
        previous: iterate before it, (n, c, h, w).
        best: iterate with the highest loss so far, (n, c, h, w).
        best_gradient, best_loss: gradient (n, c, h, w) and loss (n,) at ``best``.
        loss: loss at the last iterate, (n,).
        loss_at_check: ``best_loss`` at the last checkpoint, (n,).
        step: step size, (n,).
        rises: iterations that raised the loss since the last checkpoint, int64 (n,).
        halved: whether the step size was halved at the last checkpoint, bool (n,).
        iteration: iterates evaluated in this run, int64 (n,).
        run: index of the restart or of the target, int64 (n,).
        targets: target class of each run, int64 (n, runs); (n, 0) for untargeted losses.
        fresh: start of the next run, (n, c, h, w), in prepared states on accelerators; (n, 0, h, w) in others.
    """

    x_adv: Tensor
    previous: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    loss: Tensor
    loss_at_check: Tensor
    step: Tensor
    rises: Tensor
    halved: Tensor
    iteration: Tensor
    run: Tensor
    targets: Tensor
    fresh: Tensor


@cache
def checkpoints(iterations: int) -> dict[int, int]:
    """Maps the iteration of each checkpoint to the number of iterations since the one before (section 3.1)."""
    period, shortest, shorter = (max(int(share * iterations), 1) for share in (0.22, 0.06, 0.03))
    periods, step = {}, 0
    while step + period <= iterations:
        step += period
        periods[step] = period
        period = max(period - shorter, shortest)
    return periods


@cache
def _schedule(iterations: int, device: torch.device) -> Tensor:
    """What depends on the iteration alone, (iterations + 1, 3).

    The largest number of rises with which the step size is halved, -1 without a checkpoint; the weight of the new
    step, which is one in the first iteration (equation 3); the weight of the last move.
    """
    periods = checkpoints(iterations)
    shares = [_MOMENTUM if step else 1.0 for step in range(iterations + 1)]
    rises = [_RISING * periods[step] if step in periods else -1.0 for step in range(iterations + 1)]
    return torch.tensor([rises, shares, [1 - share for share in shares]], device=device).T.contiguous()


@dataclass(frozen=True)
class AutoPGD(TargetableAttack):
    """What Auto-PGD has in common under every norm: losses, runs and targets.

    Attributes:
        objective: a name in LOSSES or TARGETED_LOSSES.
        iterations: steps per run.
        runs: number of restarts, or of targets with a targeted objective.
        name: name in tables. The random streams depend on it.
    """

    objective: str
    iterations: int = 100
    runs: int = 1
    name: str = "apgd"

    def targeted(self, criterion: Targeted) -> Self:
        if self.objective in TARGETED_LOSSES:
            raise AdvdpnpError(f"the attack '{self.name}' chooses its own targets; use apgd-dlr or apgd-ce")
        return super().targeted(criterion)

    def definition(self) -> dict[str, Any]:
        return {
            "attack": "apgd",
            "name": self.name,
            "objective": self.objective,
            "iterations": self.iterations,
            "runs": self.runs,
            "version": 1,
            **self.criterion.definition(),
        }

    def targets(self, logits: Tensor | None, y: Tensor) -> Tensor:
        """Target class of each run, int64 (n, runs); (n, 0) for untargeted losses."""
        if self.objective not in TARGETED_LOSSES:
            return y[:, None][:, :0]
        if logits is None:
            raise ValueError("a targeted objective needs the logits of the clean images")
        return likely_targets(logits, y, self.runs)

    def loss(self, logits: Tensor, y: Tensor, targets: Tensor, run: Tensor) -> Tensor:
        """What each row maximises in its current run, (n,)."""
        if self.objective in TARGETED_LOSSES:
            return TARGETED_LOSSES[self.objective](logits, y, target_of(targets, run))
        return self.criterion.ascent(LOSSES[self.objective](logits, y))


@dataclass(frozen=True)
class APGD(AutoPGD):
    """Auto-PGD within eps under Linf or L2 (Croce and Hein 2020, section 3)."""

    def start(self, x: Tensor, y: Tensor, logits: Tensor | None, draw: Draw) -> APGDState:
        zero, zero_count = x.new_zeros(len(x)), torch.zeros_like(y)
        first = surface_start(x, self.threat, draw, zero_count)
        return APGDState(
            x=x,
            y=y,
            done=zero_count.bool(),
            draw=draw,
            x_adv=first,
            previous=first,
            best=first,
            best_gradient=torch.zeros_like(x),
            best_loss=zero - torch.inf,  # any loss is better
            loss=zero + torch.inf,  # the first loss is no rise
            loss_at_check=zero,
            step=zero + 2 * self.threat.eps,
            rises=zero_count,
            halved=~zero_count.bool(),
            iteration=zero_count,
            run=zero_count,
            targets=self.targets(logits, y),
            fresh=x[:, :0],
        )

    @property
    def prepared_for(self) -> int:
        """A run must not end twice."""
        return min(PREPARED_FOR, self.iterations + 1)

    def prepare(self, state: APGDState) -> APGDState:
        """On accelerators, which cannot see whether a run ends: make the start of the next run ahead."""
        if self.runs == 1 or state.x.device.type == "cpu":
            return state
        return replace(state, fresh=surface_start(state.x, self.threat, state.draw, state.run + 1))

    def ask(self, state: APGDState) -> tuple[Tensor, Loss | None]:
        return state.x_adv, lambda logits: self.loss(logits, state.y, state.targets, state.run)

    def tell(self, state: APGDState, logits: Tensor, gradient: Tensor | None, misclassified: Tensor) -> APGDState:
        assert gradient is not None
        loss = self.loss(logits, state.y, state.targets, state.run)
        better = weights(loss > state.best_loss, state.x.dtype)
        state = replace(
            state,
            best=where_rows(better, state.x_adv, state.best),
            best_gradient=where_rows(better, gradient, state.best_gradient),
            best_loss=torch.maximum(loss, state.best_loss),
            rises=state.rises + (loss > state.loss),
            loss=loss,
        )
        rises, share, rest = _schedule(self.iterations, loss.device)[state.iteration].unbind(1)
        x_adv, gradient, state = self._checked(state, gradient, rises)
        return self._next_run(self._moved(state, x_adv, gradient, share.view(-1, 1, 1, 1), rest.view(-1, 1, 1, 1)))

    def _checked(self, state: APGDState, gradient: Tensor, most: Tensor) -> tuple[Tensor, Tensor, APGDState]:
        """At checkpoints, halve the step size of rows without progress and return them to their best iterate.

        A row has no progress with at most so many rises, (n,), or if neither its step size nor its best loss changed
        since the last checkpoint.
        """
        at_checkpoint = most >= 0
        if not any_row(at_checkpoint):
            return state.x_adv, gradient, state
        stuck = torch.gt(state.loss_at_check >= state.best_loss, state.halved)
        halve = at_checkpoint & (stuck | (state.rises <= most))
        changed = replace(
            state,
            step=torch.where(halve, state.step / 2, state.step),
            halved=torch.where(at_checkpoint, halve, state.halved),
            loss_at_check=torch.where(at_checkpoint, state.best_loss, state.loss_at_check),
            rises=state.rises.masked_fill(at_checkpoint, 0),
        )
        if not any_row(halve):
            return state.x_adv, gradient, changed
        weight = weights(halve, gradient.dtype)
        return where_rows(weight, state.best, state.x_adv), where_rows(weight, state.best_gradient, gradient), changed

    def _moved(self, state: APGDState, x_adv: Tensor, gradient: Tensor, share: Tensor, rest: Tensor) -> APGDState:
        """One step from ``x_adv`` with momentum, of these weights, projected twice (equation 3)."""
        length = state.step.view(-1, 1, 1, 1)
        stepped = project(ascent_step(x_adv, gradient, length, self.threat.norm), state.x, self.threat)
        mixed = (x_adv - state.previous).mul_(rest).add_(stepped.sub_(x_adv).mul_(share)).add_(x_adv)
        return replace(state, x_adv=project(mixed, state.x, self.threat), previous=x_adv, iteration=state.iteration + 1)

    def _next_run(self, state: APGDState) -> APGDState:
        """Rows that have evaluated the last iterate of a run start the next run, or are done."""
        ended = state.iteration > self.iterations
        if not any_row(ended):
            return state
        run = state.run + ended
        done = run >= self.runs
        changed = replace(state, iteration=state.iteration.masked_fill(ended, 0), run=run, done=state.done | done)
        if self.runs == 1:
            return replace(changed, x_adv=where_rows(ended, state.best, state.x_adv))
        fresh = state.fresh if state.fresh.shape[1] else surface_start(state.x, self.threat, state.draw, run)
        return replace(
            changed,
            x_adv=where_rows(ended, where_rows(done, state.best, fresh), state.x_adv),
            step=state.step.masked_fill(ended, 2 * self.threat.eps),
            halved=state.halved | ended,
            best_loss=state.best_loss.masked_fill(ended, -torch.inf),
            loss=state.loss.masked_fill(ended, torch.inf),
            rises=state.rises.masked_fill(ended, 0),
        )
