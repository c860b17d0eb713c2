"""Expectation over transformation: averaged gradients for attacks on randomised models (Athalye et al. 2018)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advdpnp.attacks.protocol import PREPARED_FOR, Loss, State, prepared
from advdpnp.attacks.rows import any_row
from advdpnp.attacks.wrapped import WrappedAttack
from advdpnp.base.randomness import Draw


@dataclass(frozen=True)
class AveragedState(State):
    """State of the wrapped attack, and sums over the evaluations of its current iterate.

    Attributes:
        inner: state of the wrapped attack.
        gradient: sum of the gradients, (n, c, h, w).
        logits: sum of the logits, (n, classes).
        answers: number of evaluations in the sums, int64 (n,).
    """

    inner: Any
    gradient: Tensor
    logits: Tensor
    answers: Tensor


@dataclass(frozen=True)
class ExpectationOverTransformation(WrappedAttack):
    """Wraps an attack: each image is evaluated several times, and the attack gets mean logits and gradients.

    Attributes:
        attack: attack that uses gradients.
        repeats: evaluations of each image.
    """

    repeats: int = 20

    def definition(self) -> dict[str, Any]:
        return {**self.attack.definition(), "gradients_averaged": self.repeats}

    def start(self, x: Tensor, y: Tensor, logits: Tensor | None, draw: Draw) -> AveragedState:
        if logits is None:
            raise ValueError("averaged gradients need the logits of the clean images")
        inner = self.attack.start(x, y, logits, draw)
        return AveragedState(
            x=x,
            y=y,
            done=inner.done,
            draw=draw,
            inner=inner,
            gradient=torch.zeros_like(x),
            logits=torch.zeros_like(logits),
            answers=torch.zeros_like(y),
        )

    @property
    def prepared_for(self) -> int:
        """As for the wrapped attack, which is told less often."""
        return getattr(self.attack, "prepared_for", PREPARED_FOR)

    def prepare(self, state: AveragedState) -> AveragedState:
        """Prepare the state of the wrapped attack."""
        return replace(state, inner=prepared(self.attack, state.inner))

    def ask(self, state: AveragedState) -> tuple[Tensor, Loss | None]:
        return self.attack.ask(state.inner)

    def tell(
        self, state: AveragedState, logits: Tensor, gradient: Tensor | None, misclassified: Tensor
    ) -> AveragedState:
        assert gradient is not None
        state = replace(
            state, gradient=state.gradient + gradient, logits=state.logits + logits, answers=state.answers + 1
        )
        enough = state.answers >= self.repeats
        if not any_row(enough):
            return state
        inner = self.attack.tell(state.inner, state.logits / self.repeats, state.gradient / self.repeats, misclassified)
        return replace(
            state,
            inner=inner.where(enough, state.inner),
            gradient=state.gradient.masked_fill(enough[:, None, None, None], 0),
            logits=state.logits.masked_fill(enough[:, None], 0),
            answers=state.answers.masked_fill(enough, 0),
            done=torch.where(enough, inner.done, state.done),
        )
