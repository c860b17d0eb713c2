"""Auto-PGD: projected gradient ascent with momentum and an adaptive step size (Croce and Hein 2020, algorithm 1)."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor

from advdpnp.attacks.criteria import Targeted, likely_targets, target_of
from advdpnp.attacks.losses import LOSSES, TARGETED_LOSSES
from advdpnp.attacks.norms import ascent_step, project, surface_start
from advdpnp.attacks.protocol import Loss, State, TargetableAttack
from advdpnp.attacks.rows import any_row, where_rows
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
def _periods(iterations: int, device: torch.device) -> Tensor:
    """The same as a tensor over iterations, int64 (iterations + 1,); zero without a checkpoint."""
    periods = checkpoints(iterations)
    return torch.tensor([periods.get(step, 0) for step in range(iterations + 1)], device=device)


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
            best_loss=zero,
            loss=zero,
            loss_at_check=zero,
            step=zero + 2 * self.threat.eps,
            rises=zero_count,
            halved=~zero_count.bool(),
            iteration=zero_count,
            run=zero_count,
            targets=self.targets(logits, y),
        )

    def ask(self, state: APGDState) -> tuple[Tensor, Loss | None]:
        return state.x_adv, lambda logits: self.loss(logits, state.y, state.targets, state.run)

    def tell(self, state: APGDState, logits: Tensor, gradient: Tensor | None, misclassified: Tensor) -> APGDState:
        assert gradient is not None
        loss = self.loss(logits, state.y, state.targets, state.run)
        first = state.iteration == 0
        better = first | (loss > state.best_loss)
        state = replace(
            state,
            best=where_rows(better, state.x_adv, state.best),
            best_gradient=where_rows(better, gradient, state.best_gradient),
            best_loss=torch.where(better, loss, state.best_loss),
            loss_at_check=torch.where(first, loss, state.loss_at_check),
            rises=torch.where(first, 0, state.rises + (loss > state.loss)),
            loss=loss,
        )
        x_adv, gradient, state = self._checked(state, gradient)
        return self._next_run(self._moved(state, x_adv, gradient))

    def _checked(self, state: APGDState, gradient: Tensor) -> tuple[Tensor, Tensor, APGDState]:
        """At checkpoints, halve the step size of rows without progress and return them to their best iterate."""
        period = _periods(self.iterations, state.iteration.device)[state.iteration.clamp(max=self.iterations)]
        at_checkpoint = period > 0
        stuck = ~state.halved & (state.loss_at_check >= state.best_loss)
        halve = at_checkpoint & ((state.rises <= _RISING * period) | stuck)
        changed = replace(
            state,
            step=torch.where(halve, state.step / 2, state.step),
            halved=torch.where(at_checkpoint, halve, state.halved),
            loss_at_check=torch.where(at_checkpoint, state.best_loss, state.loss_at_check),
            rises=torch.where(at_checkpoint, 0, state.rises),
        )
        if not any_row(halve):
            return state.x_adv, gradient, changed
        return where_rows(halve, state.best, state.x_adv), where_rows(halve, state.best_gradient, gradient), changed

    def _moved(self, state: APGDState, x_adv: Tensor, gradient: Tensor) -> APGDState:
        """One step with momentum from ``x_adv``, projected twice (equation 3)."""
        length = state.step[:, None, None, None]
        stepped = project(ascent_step(x_adv, gradient, length, self.threat.norm), state.x, self.threat)
        share = torch.where(state.iteration == 0, 1.0, _MOMENTUM)[:, None, None, None]
        mixed = (x_adv - state.previous).mul_(1 - share).add_(stepped.sub_(x_adv).mul_(share)).add_(x_adv)
        return replace(state, x_adv=project(mixed, state.x, self.threat), previous=x_adv, iteration=state.iteration + 1)

    def _next_run(self, state: APGDState) -> APGDState:
        """Rows that have evaluated the last iterate of a run start the next run, or are done."""
        run_ended = state.iteration > self.iterations
        run = state.run + run_ended.long()
        done = run >= self.runs
        again = run_ended & ~done
        if not any_row(run_ended):
            return state
        fresh = surface_start(state.x, self.threat, state.draw, run)
        fresh = where_rows(done, state.best, fresh)
        return replace(
            state,
            x_adv=where_rows(run_ended, fresh, state.x_adv),
            previous=where_rows(run_ended, fresh, state.previous),
            step=torch.where(again, 2 * self.threat.eps, state.step),
            halved=state.halved | again,
            iteration=torch.where(again, 0, state.iteration),
            run=run,
            done=state.done | done,
        )
