"""What attackers maximise: functions of logits (n, classes) and labels (n,), one number per sample (n,)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def best_other(logits: Tensor, y: Tensor) -> Tensor:
    """The largest logit of any class but the own, (n,). Masked with -inf, so right for logits of any sign."""
    own = functional.one_hot(y, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(1)


def own_logit(logits: Tensor, y: Tensor) -> Tensor:
    """The logit of the label, (n,)."""
    return logits.gather(1, y[:, None])[:, 0]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(logits)[y]. Its gradient vanishes for confident models; see ``rescaled_cross_entropy``."""
    return functional.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best other logit minus own logit: positive means misclassified (Carlini and Wagner, 2017)."""
    return best_other(logits, y) - own_logit(logits, y)


def difference_of_logits_ratio(logits: Tensor, y: Tensor) -> Tensor:
    """Margin divided by the gap between first and third logit: no shift or scale of the logits changes it.

    Croce and Hein, "Reliable evaluation of adversarial robustness...", 2020. Needs three classes or more.
    """
    ordered = logits.sort(1, descending=True).values
    return margin(logits, y) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def rescaled_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits divided by their own range, which keeps its gradient at any scale of the logits."""
    spread = (logits.amax(1) - logits.amin(1)).detach().clamp(min=1e-12)
    return cross_entropy(logits / spread[:, None], y)


OBJECTIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": cross_entropy,
    "margin": margin,
    "dlr": difference_of_logits_ratio,
    "rescaled-ce": rescaled_cross_entropy,
}
