"""Projected gradient ascent within eps: FGSM, PGD and PGD on the margin loss (the C&W of robustness tables)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from advdpnp.attacks.criteria import Targeted
from advdpnp.attacks.losses import LOSSES, OF_CLEAN_LOGITS
from advdpnp.attacks.norms import ascent_step, project, random_start
from advdpnp.attacks.protocol import ATTACKS, Loss, State, TargetableAttack, positive_integer
from advdpnp.attacks.rows import where_rows
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import Draw


@dataclass(frozen=True)
class PGDState(State):
    """State of PGD.

    Attributes:
        x_adv: iterate to evaluate, (n, c, h, w).
        step, restart: index of the step and of the restart, int64 (n,).
        clean_logits: logits of the clean images, (n, classes); (n, 0) if the loss does not use them.
    """

    x_adv: Tensor
    step: Tensor
    restart: Tensor
    clean_logits: Tensor


@dataclass(frozen=True)
class PGD(TargetableAttack):
    """Steps in the direction of steepest ascent, projected onto the eps-ball (Madry et al., 2018).

    Attributes:
        threat: Linf or L2.
        steps: gradient steps per restart.
        step_size: step size in the norm of the threat model; None means eps / 4.
        objective: a name in LOSSES.
        random_start: whether to start at a random image of the ball; otherwise at the clean image.
        restarts: number of runs. Without random starts all runs are the same.
        name: name in tables. The random streams depend on it.
    """

    steps: int = 20
    step_size: float | None = None
    objective: str = "ce"
    random_start: bool = True
    restarts: int = 1
    name: str = "pgd"

    def targeted(self, criterion: Targeted) -> "PGD":
        if self.objective in OF_CLEAN_LOGITS:
            raise AdvdpnpError(f"the loss '{self.objective}' knows no classes and cannot aim at targets; use ce")
        return super().targeted(criterion)

    def definition(self) -> dict[str, Any]:
        return {
            "attack": "pgd",
            "name": self.name,
            "steps": self.steps,
            "step_size": self._step,
            "objective": self.objective,
            "random_start": self.random_start,
            "restarts": self.restarts,
            "version": 1,
            **self.criterion.definition(),
        }

    @property
    def _step(self) -> float:
        return self.threat.eps / 4 if self.step_size is None else self.step_size

    def start(self, x: Tensor, y: Tensor, logits: Tensor | None, draw: Draw) -> PGDState:
        zeros = torch.zeros_like(y)
        if not self.looks_at_clean_logits:
            logits = x.new_empty(len(x), 0)
        elif logits is None:
            raise ValueError(f"the objective '{self.objective}' needs the logits of the clean images")
        return PGDState(
            x=x,
            y=y,
            done=zeros.bool(),
            draw=draw,
            x_adv=self._first(x, draw, zeros),
            step=zeros,
            restart=zeros,
            clean_logits=logits,
        )

    @property
    def looks_at_clean_logits(self) -> bool:
        """Whether ``start`` needs the logits of the clean images."""
        return self.objective in OF_CLEAN_LOGITS

    def _first(self, x: Tensor, draw: Draw, restart: Tensor) -> Tensor:
        return random_start(x, self.threat, draw, restart) if self.random_start else x

    def ask(self, state: PGDState) -> tuple[Tensor, Loss | None]:
        return state.x_adv, lambda logits: self._loss(state, logits)

    def _loss(self, state: PGDState, logits: Tensor) -> Tensor:
        return self.criterion.ascent(LOSSES[self.objective](logits, state.y, state.clean_logits))

    def tell(self, state: PGDState, logits: Tensor, gradient: Tensor | None, misclassified: Tensor) -> PGDState:
        assert gradient is not None
        moved = project(ascent_step(state.x_adv, gradient, self._step, self.threat.norm), state.x, self.threat)
        if self.restarts == 1:
            step = state.step + 1
            return replace(state, x_adv=moved, step=step, done=state.done | (step >= self.steps))
        # With several restarts, the last iterate of each (step == steps) is evaluated before the next restart.
        again = state.step >= self.steps
        restart = state.restart + again.long()
        step = torch.where(again, 0, state.step + 1)
        fresh = self._first(state.x, state.draw, restart)
        moved = where_rows(again, fresh, moved)
        last = (step >= self.steps) & (restart >= self.restarts - 1)
        return replace(state, x_adv=moved, step=step, restart=restart, done=state.done | last)


def perturb(model: nn.Module, x: Tensor, y: Tensor, attack: PGD, draw: Draw) -> Tensor:
    """Adversarial images for training: all steps for all rows, without early stopping and without verification.

    Gradients are with respect to the images only, so no parameter's ``.grad`` changes. The model stays in its mode.
    Works under autocast and under ``no_grad``.

    Args:
        model: maps images in [0, 1] to logits (n, classes).
        x: clean images in [0, 1], (n, c, h, w).
        y: labels, int64 (n,).
        attack: its threat model, steps and loss.
        draw: random stream of each row.

    Returns:
        images within the threat model, (n, c, h, w), detached.
    """
    clean_logits = None
    if attack.looks_at_clean_logits:
        with torch.no_grad():
            clean_logits = model(x)
    state = attack.start(x.detach(), y, clean_logits, draw)
    unknown = torch.zeros_like(state.done)
    for _ in range(attack.restarts * (attack.steps + 1) - 1):  # each restart but the last evaluates its last iterate
        queries, objective = attack.ask(state)
        assert objective is not None
        with torch.enable_grad():
            queries = queries.detach().requires_grad_()
            logits = model(queries)
            (gradient,) = torch.autograd.grad(objective(logits).sum(), queries)
        state = attack.tell(state, logits.detach(), gradient, unknown)
    return state.x_adv.detach()


@ATTACKS.register(
    "fgsm",
    description="one step of size eps along the sign of the gradient, from the clean image",
    reference="Goodfellow et al., Explaining and Harnessing Adversarial Examples, 2015",
)
def fgsm(threat: ThreatModel, classes: int) -> PGD:
    return PGD(threat, steps=1, step_size=threat.eps, random_start=False, name="fgsm")


@ATTACKS.register(
    "pgd-{steps}",
    description="projected gradient ascent on the cross-entropy, step size eps/4, one random start",
    reference="Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018",
)
def pgd(threat: ThreatModel, classes: int, steps: int | str) -> PGD:
    count = positive_integer(steps, f"pgd-{steps}")
    return PGD(threat, steps=count, name=f"pgd-{count}")


@ATTACKS.register(
    "cw",
    description="PGD on the margin loss within eps, the C&W of robustness tables: 30 steps of eps/10",
    reference="Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, 2017 (its loss)",
    defaults={"steps": 30},
    status="ours",
)
def cw(threat: ThreatModel, classes: int, steps: int | str) -> PGD:
    return PGD(threat, steps=positive_integer(steps, "cw"), step_size=threat.eps / 10, objective="margin", name="cw")
