"""Rows on their way through the engine: samples that wait, active rows, and results."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from advdpnp.attacks.protocol import State
from advdpnp.attacks.rows import Batch, Rows, where_rows


@dataclass(frozen=True)
class AttackResult(Rows):
    """What became of samples; tensors on the CPU, one row each.

    Attributes:
        sample, label, clean_prediction, adversarial_prediction: int64 (n,).
        success: the model is misclassified within the threat model (or by the clean image), bool.
        norm: distance of the nearest verified fooling image, float64; inf where none was found. Minimum-norm attacks
            may find one outside eps: that is no success.
        margin: own logit minus best other of the last image judged, float32.
        forwards, backwards: model evaluations spent on the row, int64.
        zero_gradient: the first gradient was exactly zero (or not finite), bool.
        borderline: the margin is within 1e-5 of the largest logit, bool.
        stage: which stage of the attack ended the row, from 0; -1 where the attack does not tell, int64.
        refused: images that the search took for successes and the verifier did not: the model answers them right, or
            the search ended on one that the threat model forbids, int64.
        x_adv: the fooling image, float32 (n, c, h, w); the clean one without success.
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

    @classmethod
    def of_clean(
        cls, batch: Batch, *, prediction: Tensor, margin: Tensor, borderline: Tensor, forwards: Tensor | int
    ) -> Self:
        """The result of judging the images of ``batch`` alone: success means misclassified, at distance 0."""
        wrong, zero = prediction != batch.y, torch.zeros_like(batch.y)
        return cls(
            sample=batch.sample,
            label=batch.y,
            clean_prediction=prediction,
            adversarial_prediction=prediction,
            success=wrong,
            norm=torch.where(wrong, 0.0, torch.inf).double(),
            margin=margin,
            forwards=zero + forwards,
            backwards=zero,
            zero_gradient=torch.zeros_like(wrong),
            borderline=borderline,
            stage=zero,
            refused=zero,
            x_adv=batch.x,
        )


@dataclass(frozen=True)
class SearchState(Rows):
    """Active rows: the state of the attack and the records of the engine.

    ``age`` counts iterations. ``candidate`` is an image to verify, ``candidate_norm`` its distance (inf: none waits);
    ``last`` says that nothing follows it. ``best`` is the nearest verified fooling image, ``best_norm`` its distance
    (inf: none yet), ``inside`` whether the threat model contains it; ``refused`` counts claims that the model denied.
    """

    state: State
    sample: Tensor
    clean_prediction: Tensor
    age: Tensor
    forwards: Tensor
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


def propose(rows: SearchState, which: Tensor, images: Tensor, distance: Tensor) -> SearchState:
    """Put images up for verification in the rows where ``which`` holds."""
    return replace(
        rows,
        candidate=where_rows(which, images, rows.candidate),
        candidate_norm=torch.where(which, distance, rows.candidate_norm),
    )
