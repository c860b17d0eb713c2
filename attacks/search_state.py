"""Rows in the engine: the state of active rows, and the results of finished ones."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from advdpnp.attacks.criteria import MISCLASSIFIED
from advdpnp.attacks.protocol import State
from advdpnp.attacks.rows import Batch, Rows, where_rows
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.devices import widest_float


@dataclass(frozen=True)
class AttackResult(Rows):
    """Outcome of an attack, one row per sample; ``search`` returns all tensors on the CPU.

    Attributes:
        sample, label, clean_prediction, adversarial_prediction: int64 (n,).
        success: whether the model misclassifies the clean image or an image within the threat model, bool (n,). Of a
            targeted attack: whether it predicts the target for one of these.
        norm: distance of the nearest verified adversarial image, float64 (n,); inf if there is none. A minimum-norm
            attack may find one outside eps, which is not a success. Of a search within eps that ended outside it: of
            its last image.
        margin: label's logit minus the largest other logit on the last verified image, float32 (n,). Of a targeted
            attack: the largest other logit minus the target's.
        forwards, backwards: model evaluations of the row, int64 (n,).
        zero_gradient: whether the first gradient was exactly zero (or not finite), bool (n,).
        borderline: whether the margin is within 1e-5 of the largest logit, bool (n,).
        stage: index of the stage that finished the row, int64 (n,); -1 if unknown.
        refused: images that the search claimed and verification rejected, int64 (n,). Either the model classifies
            them correctly, or the search ended on an image outside the threat model.
        x_adv: the adversarial image, float32 (n, c, h, w); the clean image without success.
        parted: whether a copy of the model that was asked nothing before took an image for a success that the model did
            not, or the other way round, bool (n,); either makes a success. None stands for nowhere. The forward of the
            copy is not counted.
    """

    sample: Tensor
    label: Tensor
    clean_prediction: Tensor
    adversarial_prediction: Tensor
    success: Tensor
    norm: Tensor
    margin: Tensor
    forwards: Tensor
    backwards: Tensor
    zero_gradient: Tensor
    borderline: Tensor
    stage: Tensor
    refused: Tensor
    x_adv: Tensor
    parted: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.parted is None:
            object.__setattr__(self, "parted", torch.zeros_like(self.success))

    @classmethod
    def of_clean(
        cls, batch: Batch, *, prediction: Tensor, margin: Tensor, borderline: Tensor, forwards: Tensor | int
    ) -> Self:
        """Results for clean images: a success is a misclassified image, at distance 0.

        Args:
            batch: the clean images.
            prediction: predicted classes, int64 (n,).
            margin, borderline: as the attributes of this class.
            forwards: forward passes of each row, int64 (n,) or one number for all rows.
        """
        misclassified, zero = MISCLASSIFIED.met(prediction, batch.y), torch.zeros_like(batch.y)
        return cls(
            sample=batch.sample,
            label=batch.y,
            clean_prediction=prediction,
            adversarial_prediction=prediction,
            success=misclassified,
            norm=torch.where(misclassified, 0.0, torch.inf).to(widest_float(batch.y.device)),
            margin=margin,
            forwards=zero + forwards,
            backwards=zero,
            zero_gradient=torch.zeros_like(misclassified),
            borderline=borderline,
            stage=zero,
            refused=zero,
            x_adv=batch.x,
        )

    def within(self, threat: ThreatModel, x: Tensor) -> Self:
        """The results of a minimum-norm search, read at another radius: equal to those of a search for that radius.

        Args:
            threat: not wider than that of the search.
            x: the clean images, (n, c, h, w).
        """
        success = self.success & threat.contains(x, self.x_adv, self.norm)
        return replace(
            self,
            success=success,
            adversarial_prediction=torch.where(success, self.adversarial_prediction, self.clean_prediction),
            x_adv=torch.where(success[:, None, None, None], self.x_adv, x),
        )


@dataclass(frozen=True)
class SearchState(Rows):
    """Active rows: the state of the attack and the engine's own fields.

    Attributes:
        state: state of the attack. The attack may write into it, so nothing is judged by it.
        x: clean images, (n, c, h, w), as the engine keeps them.
        goal: class that the attack leaves or reaches, int64 (n,).
        unanswered: logits in place of an answer that the model does not give, (n, classes): the goal is the last class.
        sample, label, clean_prediction, backwards, zero_gradient: as in ``AttackResult``.
        allowance: forwards and backwards that the row may cost in this stage, int64 (n,).
        age: iterations of the row, int64 (n,); each is a forward.
        judged: forwards of the clean image and of candidates, int64 (n,).
        candidate: image to verify, (n, c, h, w).
        candidate_norm: distance of the candidate, float64 (n,); inf if there is none, -1 before it is measured.
        last: whether the candidate is the last image of the search, bool (n,).
        best: nearest verified adversarial image, (n, c, h, w).
        best_norm: distance of ``best``, float64 (n,); inf if there is none.
        inside: whether ``best`` is within the threat model, bool (n,).
        prediction: predicted class of ``best``, int64 (n,).
        margin, borderline, refused, parted: as in ``AttackResult``.
        near: whether a query within the threat model came within ``tolerance`` of a success, bool (n,).
        tolerance: margin that a search in low precision cannot tell from a success, float32 (n,); unused in float32.
    """

    state: State
    x: Tensor
    goal: Tensor
    unanswered: Tensor
    sample: Tensor
    label: Tensor
    clean_prediction: Tensor
    allowance: Tensor
    age: Tensor
    judged: Tensor
    backwards: Tensor
    zero_gradient: Tensor
    candidate: Tensor
    candidate_norm: Tensor
    last: Tensor
    best: Tensor
    best_norm: Tensor
    inside: Tensor
    prediction: Tensor
    margin: Tensor
    borderline: Tensor
    refused: Tensor
    parted: Tensor
    near: Tensor
    tolerance: Tensor

    @property
    def forwards(self) -> Tensor:
        """As in ``AttackResult``."""
        return self.age + self.judged


def propose(rows: SearchState, which: Tensor, images: Tensor, distance: Tensor) -> SearchState:
    """Make ``images`` the candidates for verification in the rows where ``which``, bool (n,), is true."""
    return replace(
        rows,
        candidate=where_rows(which, images, rows.candidate),
        candidate_norm=torch.where(which, distance, rows.candidate_norm),
    )
