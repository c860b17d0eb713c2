"""Auto-PGD under L1: sparse steps whose sparsity adapts, projected onto the ball and the box at once.

Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", 2021.
"""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from advdpnp.attacks.algorithms.apgd import AutoPGD
from advdpnp.attacks.protocol import Loss, State
from advdpnp.attacks.rows import any_row, where_rows
from advdpnp.base.randomness import Draw

_RADII = (3, 2, 1)  # multiples of eps, one for each phase of a run (section 3.3)
_SHARES = (0.3, 0.3)  # of the steps, for all phases but the last
_CHECKED = 0.04  # share of a phase's steps between two checkpoints
_SPARSER = 0.95  # the step grows again if the best perturbation has less than this share of its changed values
_SHRUNK = 1.5  # factor of a smaller step, and of the values a step changes to those of the best perturbation
_SMALLEST = 10  # the step is at least the radius divided by this
_WITHIN = 1 - 5e-6  # of the radius: the sum of 3,072 rounded values must not exceed it


@dataclass(frozen=True)
class APGDL1State(State):
    """State of Auto-PGD under L1.

    Attributes:
        x_adv: iterate to evaluate, (n, c, h, w).
        best: iterate with the highest loss in this phase, (n, c, h, w).
        best_gradient, best_loss: gradient (n, c, h, w) and loss (n,) at ``best``.
        step: length of a step, (n,).
        share: share of the values that a step changes, (n,).
        changed: values that ``best`` changed at the last checkpoint, (n,).
        iteration: iterates evaluated in this run, int64 (n,).
        run: index of the restart or of the target, int64 (n,).
        targets: target class of each run, int64 (n, runs); (n, 0) for untargeted losses.
    """

    x_adv: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    step: Tensor
    share: Tensor
    changed: Tensor
    iteration: Tensor
    run: Tensor
    targets: Tensor


@cache
def _schedule(iterations: int, device: torch.device) -> tuple[Tensor, ...]:
    """By iteration, each (iterations + 3,): radius in eps; whether a phase begins, has a checkpoint, and ends."""
    lengths = [math.ceil(share * iterations) for share in _SHARES]
    lengths.append(max(iterations - sum(lengths), 0))
    rows = []
    for radius, length in zip(_RADII, lengths, strict=True):
        period = max(int(_CHECKED * length), 1)
        rows += [(radius, at == 0, at > 0 and at % period == 0, at == length) for at in range(length + 1)]
    radii, begins, checks, ends = zip(*rows, strict=True)
    return tuple(torch.tensor(column, device=device) for column in (radii, begins, checks, ends))


@dataclass(frozen=True)
class APGDL1(AutoPGD):
    """Auto-PGD within eps under L1. Each run takes 30 % of its steps at 3 eps, 30 % at 2 eps and the rest at eps.

    Attributes:
        threat: L1.
        objective, iterations, runs, name: as in ``AutoPGD``.
    """

    norms = ("l1",)

    def definition(self) -> dict[str, Any]:
        return {**super().definition(), "radii": list(_RADII)}

    def start(self, x: Tensor, y: Tensor, logits: Tensor | None, draw: Draw) -> APGDL1State:
        zero, count = x.new_zeros(len(x)), torch.zeros_like(y)
        state = APGDL1State(
            x=x, y=y, done=count.bool(), draw=draw, x_adv=x, best=x, best_gradient=torch.zeros_like(x), best_loss=zero,
            step=zero, share=zero, changed=zero, iteration=count, run=count, targets=self.targets(logits, y),
        )  # fmt: skip
        return self._begun(state, ~count.bool(), self._noise(state), zero + _RADII[0] * self.threat.eps)

    def _noise(self, state: APGDL1State) -> Tensor:
        return state.x + state.draw.normal(tuple(state.x.shape[1:]), state.run, dtype=state.x.dtype)

    def _begun(self, state: APGDL1State, which: Tensor, start: Tensor, radius: Tensor) -> APGDL1State:
        """Rows where ``which`` begin a phase at the projection of ``start``."""
        start = self._projected(start, state.x, radius)
        changed = _changed(start, state.x)
        return replace(
            state,
            x_adv=where_rows(which, start, state.x_adv),
            step=torch.where(which, radius, state.step),
            share=torch.where(which, changed / state.x[0].numel() / _SHRUNK, state.share),
            changed=torch.where(which, changed, state.changed),
        )

    def _projected(self, x_adv: Tensor, x: Tensor, radius: Tensor) -> Tensor:
        return project_to_l1_ball(x_adv, x, radius, self.threat.low, self.threat.high)

    def ask(self, state: APGDL1State) -> tuple[Tensor, Loss | None]:
        return state.x_adv, lambda logits: self.loss(logits, state.y, state.targets, state.run)

    def tell(self, state: APGDL1State, logits: Tensor, gradient: Tensor | None, misclassified: Tensor) -> APGDL1State:
        assert gradient is not None
        radii, begins, checks, ends = _schedule(self.iterations, state.iteration.device)
        now = state.iteration.clamp(max=len(radii) - 1)
        radius = radii[now] * self.threat.eps
        loss = self.loss(logits, state.y, state.targets, state.run)
        better = begins[now] | (loss > state.best_loss)
        state = replace(
            state,
            best=where_rows(better, state.x_adv, state.best),
            best_gradient=where_rows(better, gradient, state.best_gradient),
            best_loss=torch.where(better, loss, state.best_loss),
        )
        state, gradient = self._checked(state, gradient, checks[now], radius)
        moved = state.x_adv + state.step[:, None, None, None] * sparse_direction(gradient, state.share)
        state = replace(state, x_adv=self._projected(moved, state.x, radius), iteration=state.iteration + 1)
        return self._next_phase(state, ends[now], radii)

    def _checked(
        self, state: APGDL1State, gradient: Tensor, check: Tensor, radius: Tensor
    ) -> tuple[APGDL1State, Tensor]:
        """At checkpoints, restart the step of rows that became sparser, at their best iterate; shrink it elsewhere."""
        changed = _changed(state.best, state.x)
        sparser = check & (changed / state.changed < _SPARSER)
        smaller = torch.minimum(torch.maximum(state.step / _SHRUNK, radius / _SMALLEST), radius)
        state = replace(
            state,
            x_adv=where_rows(sparser, state.best, state.x_adv),
            step=torch.where(sparser, radius, torch.where(check, smaller, state.step)),
            share=torch.where(check, changed / state.x[0].numel() / _SHRUNK, state.share),
            changed=torch.where(check, changed, state.changed),
        )
        return state, where_rows(sparser, state.best_gradient, gradient)

    def _next_phase(self, state: APGDL1State, ended: Tensor, radii: Tensor) -> APGDL1State:
        """Rows at the end of a phase begin the next one at their best iterate; at the end of a run, the next run."""
        if not any_row(ended):
            return state
        run_ended = ended & (state.iteration >= len(radii))
        run = state.run + run_ended.long()
        done = run >= self.runs
        iteration = torch.where(run_ended & ~done, 0, state.iteration)
        state = replace(state, run=run, done=state.done | done, iteration=iteration)
        start = where_rows(run_ended & ~done, self._noise(state), state.best)
        radius = radii[iteration.clamp(max=len(radii) - 1)] * self.threat.eps
        return self._begun(state, ended, start, radius)


def _changed(x_adv: Tensor, x: Tensor) -> Tensor:
    """Number of values that differ, (n,)."""
    return (x_adv != x).flatten(1).sum(1).to(x.dtype)


def sparse_direction(gradient: Tensor, share: Tensor) -> Tensor:
    """The signs of the largest entries of a gradient, divided by their number, (n, c, h, w).

    Args:
        gradient: (n, c, h, w).
        share: share of the entries that count as large, (n,); at least one does.
    """
    size = gradient.flatten(1).abs()
    values = size.shape[1]
    count = values - ((1 - share) * values).clamp(0, values - 1).long()
    most = int(count.max()) if size.device.type == "cpu" else values  # reading it would make the host wait for a GPU
    threshold = size.topk(most).values.gather(1, count[:, None] - 1)
    signs = gradient.flatten(1).sign() * (size >= threshold)
    return (signs / signs.abs().sum(1, keepdim=True).clamp(min=1)).view_as(gradient)


def project_to_l1_ball(points: Tensor, centre: Tensor, radius: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """The nearest images in the L1 ball around ``centre`` and within the bounds (proposition 2.1).

    Coordinate i moves min(max(|d_i| - t, 0), u_i) from the centre in the direction of d = points - centre, where u_i is
    the room to the bound, and t >= 0 is the least threshold with which the moves add up to no more than the radius.

    Args:
        points: images, not necessarily within the bounds, (n, c, h, w).
        centre: images within the bounds, (n, c, h, w).
        radius: (n,).
        low, high: bounds of the coordinates.

    Returns:
        Images, (n, c, h, w).
    """
    d, x = (points - centre).flatten(1), centre.flatten(1)
    size, room = d.abs(), torch.where(d > 0, high - x, x - low)
    budget = radius[:, None] * _WITHIN
    # The sum of the moves as a function of t is linear between kinks. From above, it gets steeper where a coordinate
    # begins to move (t = |d|) and flatter where it reaches the bound (t = |d| - u).
    kinks, order = torch.cat([size, size - room], 1).clamp_(min=0).sort(1, descending=True)
    slope = torch.where(order < size.shape[1], 1.0, -1.0).to(size.dtype).cumsum_(1)
    total = torch.cumsum(slope[:, :-1] * (kinks[:, :-1] - kinks[:, 1:]), 1)  # at all kinks but the first
    place = torch.searchsorted(total, budget).clamp_(max=total.shape[1] - 1)
    excess = total.gather(1, place) - budget
    threshold = kinks.gather(1, place + 1) + excess.clamp_(min=0) / slope.gather(1, place).clamp_(min=1)
    for _ in range(2):  # Newton's steps against the rounding of the sums over thousands of kinks
        rest = size - threshold
        sloping = ((rest > 0) & (rest < room)).sum(1, keepdim=True).clamp_(min=1)
        threshold = (threshold + (_moves(rest, room).sum(1, keepdim=True) - budget) / sloping).clamp_(min=0)
    return (x + _moves(size - threshold, room).mul_(d.sign())).clamp_(low, high).view_as(points)


def _moves(rest: Tensor, room: Tensor) -> Tensor:
    return torch.minimum(rest.clamp(min=0), room)
