"""Verification: the only code that decides whether a model misclassifies an image."""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from advdpnp.attacks.criteria import MISCLASSIFIED, Criterion
from advdpnp.attacks.engine.executor import Executor, finite, lost, switch_to_eval
from advdpnp.attacks.losses import margin
from advdpnp.attacks.rows import Rows
from advdpnp.base.errors import ModelError

REPEATS = 20
"""Forward passes per image of a randomised model; the majority decides."""


@dataclass(frozen=True)
class Judgement(Rows):
    """Predictions of the model, one row per image.

    Attributes:
        prediction: int64 (n,). It meets the criterion exactly if the image is a success. -1 where the logits are not
            finite, which is no class: such an image is misclassified.
        margin: label's logit minus the largest other logit, float32 (n,), from the mean logits; of a targeted
            criterion the largest other logit minus the target's. NaN where the logits are not finite.
        borderline: whether the margin is within 1e-5 of the largest logit, so that the prediction may differ on another
            machine, bool (n,).
        logits: mean over the repeats, float32 (n, classes); zero where they are not finite.
        parted: where the two of ``judge_twice`` part by more than rounding, bool (n,).
    """

    prediction: Tensor
    margin: Tensor
    borderline: Tensor
    logits: Tensor
    parted: Tensor


def judge(executor: Executor, x: Tensor, y: Tensor, criterion: Criterion = MISCLASSIFIED) -> Judgement:
    """Evaluate the model on images with one forward pass, or 20 if it is randomised.

    Args:
        x: images in [0, 1], (n, c, h, w).
        y: labels, int64 (n,); the goal of a targeted criterion.
        criterion: what counts as a success.

    Raises:
        AdvdpnpError: invalid logits, or a label that is not a class of the model.
    """
    return decide(answer(executor, x, y), y, criterion)


def judge_twice(executor: Executor, x: Tensor, y: Tensor, criterion: Criterion = MISCLASSIFIED) -> Judgement:
    """As ``judge``, and by a copy of the model that was asked nothing before: what either takes for a success is one.

    So a model gains nothing by remembering what it was asked during a search. The copy is made of ``executor.unasked``.
    """
    fresh = _fresh(executor)
    judged = judge(executor, x, y, criterion)
    if fresh is None:
        return judged
    try:
        other = judge(fresh, x, y, criterion)
    except ModelError:
        return judged
    found, also = (criterion.met(each.prediction, y) for each in (judged, other))
    parted = (found != also) & ~judged.borderline & ~other.borderline
    return replace(other.where(also & ~found, judged), parted=parted)


def _fresh(executor: Executor) -> Executor | None:
    """An executor of a model that was asked nothing before, with the noise of this one's next calls."""
    model = None if executor.unasked is None else unasked_copy(executor.unasked)
    if model is None:
        return None
    try:
        switch_to_eval(model)  # not evaluation_mode: weights of a copied TorchScript program cannot be frozen
    except Exception:  # its own code
        return None
    fresh = Executor(model, executor.static_batch_size, executor.device, executor.seed)
    fresh.calls, fresh.batch_sizes = executor.calls, executor.batch_sizes
    return fresh


def unasked_copy(model: nn.Module) -> nn.Module | None:
    """A copy of a model that nobody has asked anything yet; None if it cannot be copied."""
    try:
        return copy.deepcopy(model)
    except (Exception, SystemExit):  # of copy.deepcopy, or of the model's own code
        return None


def answer(executor: Executor, x: Tensor, y: Tensor) -> Tensor:
    """Logits (repeats, n, classes) of images, as ``judge`` asks for them."""
    runs = torch.stack([executor.logits(x) for _ in range(repeats(executor))])
    executor.check_labels(y)
    return runs


def decide(runs: Tensor, y: Tensor, criterion: Criterion = MISCLASSIFIED) -> Judgement:
    """Judge the logits that ``answer`` returned.

    A randomised model misclassifies an image if less than half of its predictions are the label. It takes an image for
    a target if more than half are.
    """
    answered = torch.stack([~lost(run) for run in runs])
    votes = torch.zeros_like(runs[0]).scatter_add_(1, runs.argmax(2).T, answered.T.to(runs.dtype))
    kept = criterion.keeps(votes.gather(1, y[:, None])[:, 0], len(runs))
    others = votes.scatter(1, y[:, None], -1)
    rival = torch.where(others.amax(1) > 0, others.argmax(1), -1)
    logits = runs.mean(0)
    distance = -criterion.ascent(margin(logits, y))
    borderline = distance.abs() <= 1e-5 * logits.abs().amax(1)
    prediction, parted = torch.where(kept, y, rival), torch.zeros_like(borderline)
    return Judgement(prediction, distance.float(), borderline, finite(logits.float()), parted)


def repeats(executor: Executor) -> int:
    """Forward passes for the verification of one image."""
    return 1 if executor.seed is None else REPEATS


def price_of_a_step(answers: int, low: bool = False) -> int:
    """Forwards and backwards of one step of a search: the query, its gradient, and three images that are looked at.

    These are the clean image or a claim of the step before, a claim of this step, and the last image if it is rejected.

    Args:
        answers: forward passes of one look: 1, or ``REPEATS`` for a randomised model.
        low: whether the clean image is also looked at in low precision, before the first step.
    """
    return 2 + 3 * answers + low
