"""The only place that decides whether an image fools a model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advdpnp.attacks.engine.executor import Executor
from advdpnp.attacks.losses import margin
from advdpnp.attacks.rows import Rows

REPEATS = 20
"""Forwards per image of a randomised model; the majority decides."""


@dataclass(frozen=True)
class Judgement(Rows):
    """The model's answers to images.

    Attributes:
        prediction: int64 (n,); differs from the label exactly where the image fools the model.
        margin: own logit minus best other, float32 (n,); the mean over repeats.
        borderline: the margin is within 1e-5 of the largest logit, so another machine may decide otherwise, bool (n,).
        logits: (n, classes), the mean over repeats.
    """

    prediction: Tensor
    margin: Tensor
    borderline: Tensor
    logits: Tensor


def judge(executor: Executor, x: Tensor, y: Tensor) -> Judgement:
    """Evaluate images x (n, c, h, w) with labels y (n,): one forward each, 20 if the model is randomised."""
    runs = torch.stack([executor.logits(x) for _ in range(repeats(executor))])
    executor.check_labels(y)
    votes = torch.zeros_like(runs[0]).scatter_add_(1, runs.argmax(2).T, torch.ones_like(runs[:, :, 0].T))
    own = votes.gather(1, y[:, None])
    misclassified = own[:, 0] * 2 < len(runs)
    rival = votes.scatter(1, y[:, None], -1).argmax(1)
    logits = runs.mean(0)
    distance = -margin(logits, y)
    borderline = distance.abs() <= 1e-5 * logits.abs().amax(1)
    return Judgement(torch.where(misclassified, rival, y), distance.float(), borderline, logits)


def repeats(executor: Executor) -> int:
    """Forwards that one judgement of one image costs."""
    return 1 if executor.seed is None else REPEATS
