"""Auto-PGD: projected gradient ascent with momentum that halves its own step (Croce and Hein 2020, algorithm 1)."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from advdpnp.attacks.losses import LOSSES, check_classes, targeted_difference_of_logits_ratio
from advdpnp.attacks.norms import ascent_step, project, surface_start
from advdpnp.attacks.protocol import ATTACKS, BoundedAttack, Loss, State
from advdpnp.attacks.rows import any_row, where_rows
from advdpnp.attacks.targets import likely_targets, target_of
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.randomness import Draw

REFERENCE = "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Attacks, 2020"
TARGETED_DLR = "dlr-targeted"
_MOMENTUM = 0.75  # weight of the new step against the last move (equation 3)
_RISING = 0.75  # rho: a step that raised the loss less often than this is too long (condition 1)


@dataclass(frozen=True)
class APGDState(State):
    """What Auto-PGD remembers of a row.

    Attributes:
        x_adv: iterate to be evaluated; ``previous``: the one before it; ``best``: that of the highest loss so far.
        best_gradient, best_loss: at ``best``.
        loss: of the last iterate, (n,).
        loss_at_check: ``best_loss`` at the last checkpoint.
        step: length of a step, (n,).
        rises: how often the loss rose since the last checkpoint, int64 (n,).
        halved: the step was halved at the last checkpoint, bool (n,).
        iteration: iterates evaluated in this run, int64 (n,).
        run: restart, or place of the target, int64 (n,).
        targets: class aimed at in each run, int64 (n, runs); (n, 0) for objectives without targets.
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
    """After how many steps a run is checked, and how many of them have passed since the last time (section 3.1)."""
    period, shortest, shorter = (max(int(share * iterations), 1) for share in (0.22, 0.06, 0.03))
    found, step = {}, 0
    while step + period <= iterations:
        step += period
        found[step] = period
        period = max(period - shorter, shortest)
    return found


@cache
def _periods(iterations: int, device: torch.device) -> Tensor:
    """The same by step, zero where no checkpoint is."""
    found = checkpoints(iterations)
    return torch.tensor([found.get(step, 0) for step in range(iterations + 1)], device=device)


@dataclass(frozen=True)
class APGD(BoundedAttack):
    """Auto-PGD within eps.

    Attributes:
        threat: Linf or L2.
        objective: a name in LOSSES, or "dlr-targeted".
        iterations: steps per run.
        runs: restarts or, with a targeted objective, targets.
        name: what it is called in tables; also names its random streams.
    """

    objective: str
    iterations: int = 100
    runs: int = 1
    name: str = "apgd"

    def definition(self) -> dict[str, Any]:
        return {
            "attack": "apgd",
            "name": self.name,
            "objective": self.objective,
            "iterations": self.iterations,
            "runs": self.runs,
            "version": 1,
        }

    def start(self, x: Tensor, y: Tensor, logits: Tensor | None, draw: Draw) -> APGDState:
        targets = y[:, None][:, :0]
        if self.objective == TARGETED_DLR:
            if logits is None:
                raise ValueError("a targeted objective needs the logits of the clean images")
            targets = likely_targets(logits, y, self.runs)
        number, none = x.new_zeros(len(x)), torch.zeros_like(y)
        first = surface_start(x, self.threat, draw, none)
        return APGDState(
            x=x,
            y=y,
            done=none.bool(),
            draw=draw,
            x_adv=first,
            previous=first,
            best=first,
            best_gradient=torch.zeros_like(x),
            best_loss=number,
            loss=number,
            loss_at_check=number,
            step=number + 2 * self.threat.eps,
            rises=none,
            halved=~none.bool(),
            iteration=none,
            run=none,
            targets=targets,
        )

    def ask(self, state: APGDState) -> tuple[Tensor, Loss | None]:
        return state.x_adv, lambda logits: self._loss(state, logits)

    def _loss(self, state: APGDState, logits: Tensor) -> Tensor:
        if self.objective == TARGETED_DLR:
            return targeted_difference_of_logits_ratio(logits, state.y, target_of(state.targets, state.run))
        return LOSSES[self.objective](logits, state.y)

    def tell(self, state: APGDState, logits: Tensor, gradient: Tensor | None, misclassified: Tensor) -> APGDState:
        assert gradient is not None
        loss = self._loss(state, logits)
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
        place, gradient, state = self._checked(state, gradient)
        return self._next_run(self._moved(state, place, gradient))

    def _checked(self, state: APGDState, gradient: Tensor) -> tuple[Tensor, Tensor, APGDState]:
        """At a checkpoint, a row whose step is too long halves it and goes on from its best image."""
        period = _periods(self.iterations, state.iteration.device)[state.iteration.clamp(max=self.iterations)]
        at = period > 0
        stuck = ~state.halved & (state.loss_at_check >= state.best_loss)
        halve = at & ((state.rises <= _RISING * period) | stuck)
        changed = replace(
            state,
            step=torch.where(halve, state.step / 2, state.step),
            halved=torch.where(at, halve, state.halved),
            loss_at_check=torch.where(at, state.best_loss, state.loss_at_check),
            rises=torch.where(at, 0, state.rises),
        )
        if not any_row(halve):
            return state.x_adv, gradient, changed
        return where_rows(halve, state.best, state.x_adv), where_rows(halve, state.best_gradient, gradient), changed

    def _moved(self, state: APGDState, place: Tensor, gradient: Tensor) -> APGDState:
        """One step with momentum from ``place``, projected twice as in equation 3."""
        length = state.step[:, None, None, None]
        stepped = project(ascent_step(place, gradient, length, self.threat.norm), state.x, self.threat)
        share = torch.where(state.iteration == 0, 1.0, _MOMENTUM)[:, None, None, None]
        mixed = (place - state.previous).mul_(1 - share).add_(stepped.sub_(place).mul_(share)).add_(place)
        return replace(state, x_adv=project(mixed, state.x, self.threat), previous=place, iteration=state.iteration + 1)

    def _next_run(self, state: APGDState) -> APGDState:
        """Rows that have evaluated the last iterate of a run begin the next, or end."""
        over = state.iteration > self.iterations
        run = state.run + over.long()
        done = run >= self.runs
        again = over & ~done
        if not any_row(over):
            return state
        fresh = surface_start(state.x, self.threat, state.draw, run)
        fresh = where_rows(done, state.best, fresh)
        return replace(
            state,
            x_adv=where_rows(over, fresh, state.x_adv),
            previous=where_rows(over, fresh, state.previous),
            step=torch.where(again, 2 * self.threat.eps, state.step),
            halved=state.halved | again,
            iteration=torch.where(again, 0, state.iteration),
            run=run,
            done=state.done | done,
        )


@ATTACKS.register(
    "apgd-ce", description="Auto-PGD on the cross-entropy, 100 steps, one random start", reference=REFERENCE
)
def apgd_ce(threat: ThreatModel, classes: int) -> APGD:
    return APGD(threat, "ce", name="apgd-ce")


@ATTACKS.register(
    "apgd-dlr",
    description="Auto-PGD on the difference of logits ratio, 100 steps, one random start",
    reference=REFERENCE,
)
def apgd_dlr(threat: ThreatModel, classes: int) -> APGD:
    check_classes(classes, 3, "the DLR loss", "use apgd-ce")
    return APGD(threat, "dlr", name="apgd-dlr")


@ATTACKS.register(
    "apgd-t",
    description="Auto-PGD on the targeted difference of logits ratio, 100 steps for each of the 9 likeliest targets",
    reference=REFERENCE,
)
def apgd_t(threat: ThreatModel, classes: int) -> APGD:
    check_classes(classes, 4, "the targeted DLR loss", "use apgd-ce")
    return APGD(threat, TARGETED_DLR, runs=min(9, classes - 1), name="apgd-t")
