"""What a model gives away when it is attacked a little: one attack by cross-entropy that no row leaves early."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advdpnp.attacks.algorithms.pgd import PGD
from advdpnp.attacks.engine.executor import finite
from advdpnp.attacks.losses import cross_entropy
from advdpnp.attacks.norms import ascent_step, project, random_start
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.devices import widest_float
from advdpnp.base.randomness import Draw, seed_of
from advdpnp.eval.diagnostics.memory import measure_memory
from advdpnp.eval.diagnostics.outputs import digits
from advdpnp.eval.diagnostics.probe import ModelProbe

STEPS = 20
SEARCHED = 24
"""Images classified right that PGD runs on to its end. It is most of the price of all measurements, and what is asked
of it shows on few images: means, shares of more than a twentieth, and one-step defences, which lose most images."""
WINDOW = 5
"""Last iterations of which one asks whether the loss still rises."""
LARGE = 0.5
"""A Linf radius within which every image can be made the same grey."""
_FEWEST = 10
"""Shares of fewer images than this say nothing."""


def measure_gradients(subject: ModelProbe, threat: ThreatModel) -> dict[str, Any]:
    """Plain numbers; "right" holds a digit per image, 1 where it is classified right, clean mistakes counted as such.

    PGD runs on the first ``SEARCHED`` of the images that are classified right; the digits for it end there.

    - ``zero_start``, ``zero_gradient``, ``nan_gradient``: share of these images that have such a gradient at the first
      iteration, or at any while they hold.
    - ``rising``: of what the loss of the images that hold to the end has gained, the share that came in the last
      ``WINDOW`` of ``STEPS`` iterations; None for fewer than 10 of them.
    - ``rounded``: of the images that an iterate breaks, the share where it no longer does so once it is rounded to 8
      bits; None for fewer than 10. Changes of less than half a level on average are left out: rounding undoes them.
    - ``stateful``: see ``measure_memory``.
    - ``right``: noise within eps, FGSM (raw), PGD (every iterate counts), and PGD at Linf ``LARGE`` on all images but
      those that are broken within a smaller eps already.
    """
    draw = Draw.of(seed_of(subject.seed, "sanity"), torch.arange(len(subject.x), device=subject.x.device))
    asked = subject.clean_right & (subject.clean_right.cumsum(0) <= SEARCHED)
    end = int(asked.nonzero()[-1]) + 1 if int(subject.clean_right.sum()) > SEARCHED else len(asked)
    trail = _ascend(subject, PGD(threat, STEPS), draw, asked)
    left = subject.clean_right & ~(trail.broken if threat.eps <= LARGE else torch.zeros_like(trail.broken))
    large = _ascend(subject, PGD(ThreatModel("linf", LARGE, str(LARGE)), STEPS), draw, left)
    return {
        "zero_start": _share(trail.zero_start, asked),
        "zero_gradient": _share(trail.zero, asked),
        "nan_gradient": _share(trail.nan, asked),
        "rising": _rising(trail),
        "rounded": _rounded(subject, trail),
        "stateful": measure_memory(subject, threat),
        "right": {
            "noise": digits(subject.right(random_start(subject.x, threat, draw, 1))),
            "fgsm": digits(subject.right(_fgsm(subject, threat))),
            f"pgd-{STEPS}": digits(~trail.misclassified[:end]),
            f"pgd-{STEPS} at {LARGE}": digits(~large.misclassified),
        },
    }


def _fgsm(subject: ModelProbe, threat: ThreatModel) -> Tensor:
    """One step from every image, those classified wrong among them: a net that leaks labels puts some right."""
    _, gradient = subject.slopes(subject.x, subject.y)
    moved = ascent_step(subject.x, finite(gradient), threat.eps, threat.norm)
    return project(moved, subject.x, threat)


@dataclass(frozen=True)
class _Trail:
    """What happened to each row.

    Attributes:
        misclassified: by any iterate, or before, bool (n,).
        broken: by an iterate and not before, bool (n,).
        first: the iterate that did, else the last one, (n, c, h, w).
        losses: of the rows that held, per iteration (steps + 1, held).
        zero_start, zero, nan: which rows had such a gradient while they held, bool (n,).
    """

    misclassified: Tensor
    broken: Tensor
    first: Tensor
    losses: Tensor
    zero_start: Tensor
    zero: Tensor
    nan: Tensor


def _ascend(subject: ModelProbe, attack: PGD, draw: Draw, right: Tensor) -> _Trail:
    """All steps for the rows that hold, of those that are ``right`` before, bool (n,); the others leave."""
    first = subject.x.clone()
    zero_start, zero, nan = (torch.zeros_like(right) for _ in range(3))
    held = right.nonzero()[:, 0]
    losses = subject.x.new_empty(0, len(held))
    state = attack.start(subject.x[held], subject.y[held], None, draw[held])
    for step in range(attack.steps + 1):
        if not len(held):
            break
        queries, _ = attack.ask(state)
        logits, gradient = subject.slopes(queries, state.y)
        first[held] = queries
        stays = logits.argmax(1) == state.y
        zero[held] |= (gradient == 0).flatten(1).all(1) & stays
        nan[held] |= ~torch.isfinite(gradient).flatten(1).all(1) & stays
        if step == 0:
            zero_start = zero.clone()
        losses = torch.cat([losses, cross_entropy(logits, state.y)[None]])[:, stays]
        if step < attack.steps:
            told = attack.tell(state, logits, finite(gradient), ~stays)
            state = replace(told, done=torch.zeros_like(stays))[stays]
        held = held[stays]
    misclassified = torch.ones_like(right)
    misclassified[held] = False
    return _Trail(misclassified, misclassified & right, first, losses, zero_start, zero, nan)


def _share(which: Tensor, among: Tensor) -> float:
    return float(which[among].float().mean()) if bool(among.any()) else 0.0


def _rising(trail: _Trail) -> float | None:
    """Of what the best loss so far has gained in all, the share that the last iterations brought."""
    if trail.losses.shape[1] < _FEWEST:
        return None
    best = trail.losses.to(widest_float(trail.losses.device)).cummax(0).values.mean(1)
    gained = float(best[-1] - best[0])
    return float(best[-1] - best[-1 - WINDOW]) / gained if gained > 0 else 0.0


def _rounded(subject: ModelProbe, trail: _Trail) -> float | None:
    """Of the broken rows, the share whose image breaks nothing any more once it is rounded to 8 bits."""
    visible = trail.broken & ((trail.first - subject.x).abs().flatten(1).mean(1) > 0.5 / 255)
    if int(visible.sum()) < _FEWEST:
        return None
    return _share(subject.right((trail.first * 255).round() / 255), visible)
