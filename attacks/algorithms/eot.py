"""Expectation over transformation: gradients of randomised models, averaged (Athalye et al. 2018)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advdpnp.attacks.protocol import Attack, Loss, State
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.randomness import Draw


@dataclass(frozen=True)
class AveragedState(State):
    """The attack's own state, and the sums of the model's answers since its last step.

    Attributes:
        inner: the attack's state.
        gradient: sum of the gradients, (n, c, h, w).
        logits: sum of the logits, (n, classes).
        answers: number of these answers, int64 (n,).
    """

    inner: Any
    gradient: Tensor
    logits: Tensor
    answers: Tensor


@dataclass(frozen=True)
class ExpectationOverTransformation:
    """An attack that asks the same question several times and goes by the mean of the answers.

    Attributes:
        attack: one that asks for gradients.
        repeats: times that each image is asked for.
    """

    attack: Attack
    repeats: int = 20

    @property
    def name(self) -> str:
        """The attack's own."""
        return self.attack.name

    @property
    def norms(self) -> tuple[str, ...]:
        """The attack's own."""
        return self.attack.norms

    @property
    def minimum_norm(self) -> bool:
        """As the attack."""
        return self.attack.minimum_norm

    @property
    def threat(self) -> ThreatModel:
        """The attack's own."""
        return self.attack.threat

    def definition(self) -> dict[str, Any]:
        return {**self.attack.definition(), "gradients_averaged": self.repeats}

    def start(self, x: Tensor, y: Tensor, logits: Tensor | None, draw: Draw) -> AveragedState:
        if logits is None:
            raise ValueError("averaging needs the logits of the clean images")
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
        if not bool(enough.any()):
            return state
        told = self.attack.tell(state.inner, state.logits / self.repeats, state.gradient / self.repeats, misclassified)
        return replace(
            state,
            inner=told.where(enough, state.inner),
            gradient=state.gradient.masked_fill(enough[:, None, None, None], 0),
            logits=state.logits.masked_fill(enough[:, None], 0),
            answers=state.answers.masked_fill(enough, 0),
            done=torch.where(enough, told.done, state.done),
        )
