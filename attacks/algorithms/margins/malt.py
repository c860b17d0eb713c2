"""MALT's order of targets: the classes that a linear model would reach first (Melamed et al. 2024)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advdpnp.attacks.algorithms.apgd import APGD, TARGETED_DLR, APGDState
from advdpnp.attacks.criteria import likely_targets, target_of
from advdpnp.attacks.losses import check_classes, targeted_margin
from advdpnp.attacks.protocol import ATTACKS, Loss, State
from advdpnp.attacks.rows import any_row, where_rows
from advdpnp.attacks.threat import ThreatModel
from advdpnp.attacks.wrapped import WrappedAttack
from advdpnp.base.randomness import Draw

CANDIDATES = 100


@dataclass(frozen=True)
class RankedState(State):
    """State of the wrapped attack, and the scores of its candidates.

    Attributes:
        inner: state of the wrapped attack, in which the targets are put in order after the last score.
        candidates: classes that may become targets, int64 (n, candidates).
        scores: distance of each candidate's boundary in the linear model, (n, candidates).
        scored: number of scores so far, int64 (n,).
    """

    inner: APGDState
    candidates: Tensor
    scores: Tensor
    scored: Tensor


@dataclass(frozen=True)
class MaltOrder(WrappedAttack):
    """Wraps a targeted Auto-PGD: its targets are those with the smallest score, in that order.

    The score of a class t is (z_y - z_t) / |g_t|, where g_t is the gradient of z_t - z_y at the clean image in the dual
    norm: the distance at which a linear model would predict t. Each score costs one forward and one backward.

    Attributes:
        attack: Auto-PGD with a targeted objective.
        candidates: number of classes with the largest logits that are scored.
    """

    attack: APGD
    candidates: int = CANDIDATES

    def definition(self) -> dict[str, Any]:
        return {**self.attack.definition(), "order": "malt", "candidates": self.candidates}

    def start(self, x: Tensor, y: Tensor, logits: Tensor | None, draw: Draw) -> RankedState:
        if logits is None:
            raise ValueError("the order of targets needs the logits of the clean images")
        candidates = likely_targets(logits, y, self.candidates)
        inner = self.attack.start(x, y, logits, draw)
        zeros = torch.zeros_like(y)
        return RankedState(
            x=x,
            y=y,
            done=inner.done,
            draw=draw,
            inner=inner,
            candidates=candidates,
            scores=torch.zeros_like(candidates, dtype=logits.dtype),
            scored=zeros,
        )

    def ask(self, state: RankedState) -> tuple[Tensor, Loss | None]:
        scoring, target = self._scoring(state)
        queries, loss = self.attack.ask(state.inner)
        assert loss is not None

        def objective(logits: Tensor) -> Tensor:
            return torch.where(scoring, targeted_margin(logits, state.y, target), loss(logits))

        return where_rows(scoring, state.x, queries) if any_row(scoring) else queries, objective

    def tell(self, state: RankedState, logits: Tensor, gradient: Tensor | None, misclassified: Tensor) -> RankedState:
        assert gradient is not None
        scoring, target = self._scoring(state)
        inner = self.attack.tell(state.inner, logits, gradient, misclassified)
        if any_row(scoring):
            inner = state.inner.where(scoring, inner)
            state = self._scored(state, scoring, -targeted_margin(logits, state.y, target), gradient)
            ended = (scoring & (state.scored >= state.candidates.shape[1]))[:, None]
            order = state.scores.sort(dim=1, stable=True).indices[:, : inner.targets.shape[1]]
            inner = replace(inner, targets=torch.where(ended, state.candidates.gather(1, order), inner.targets))
        return replace(state, inner=inner, done=inner.done)

    def _scoring(self, state: RankedState) -> tuple[Tensor, Tensor]:
        """Rows whose next query is for a score, bool (n,), and the class that it is of, int64 (n,)."""
        return state.scored < state.candidates.shape[1], target_of(state.candidates, state.scored)

    def _scored(self, state: RankedState, scoring: Tensor, gap: Tensor, gradient: Tensor) -> RankedState:
        """The state with one more score where ``scoring``. A class that no small change approaches comes last."""
        slope = dual_length(gradient, self.threat.norm)
        score = torch.where(slope > 0, gap / slope, torch.inf)
        here = torch.arange(state.scores.shape[1], device=score.device) == state.scored[:, None]
        return replace(
            state, scores=torch.where(here, score[:, None], state.scores), scored=state.scored + scoring.long()
        )


def dual_length(gradient: Tensor, norm: str) -> Tensor:
    """Length of each gradient in the dual norm, (n,): how much a step of length 1 can gain."""
    flat = gradient.flatten(1)
    if norm == "linf":
        return flat.abs().sum(1)
    largest = flat.abs().amax(1)  # squares of tiny gradients would underflow
    length: Tensor = torch.linalg.vector_norm(flat / torch.where(largest > 0, largest, 1)[:, None], dim=1) * largest
    return length


def in_order(attack: APGD, classes: int) -> MaltOrder:
    """A targeted Auto-PGD with its targets in MALT's order."""
    return MaltOrder(attack, min(CANDIDATES, classes - 1))


@ATTACKS.register(
    "malt",
    description="MALT: as apgd-t, at the classes that the gradients at the clean image say are nearest, among the 100 "
    "largest logits",
    reference="Melamed et al., MALT Powers Up Adversarial Attacks, 2024",
)
def malt(threat: ThreatModel, classes: int) -> MaltOrder:
    check_classes(classes, 4, "the targeted DLR loss", "use mm-9")
    return in_order(APGD(threat, TARGETED_DLR, runs=min(9, classes - 1), name="malt"), classes)
