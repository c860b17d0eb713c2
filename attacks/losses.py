"""Losses that attacks maximise.

Each maps logits (n, classes) and labels, int64 (n,), to one value per sample (n,).
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from advdpnp.base.errors import AdvdpnpError


def best_other(logits: Tensor, y: Tensor) -> Tensor:
    """Largest logit of the classes other than the label, (n,). The mask is -inf, so logits may have any sign."""
    others: Tensor = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1)


def answered(logits: Tensor) -> Tensor:
    """Whether a row is finite throughout, bool (n, 1). The model has no answer in the others."""
    return logits.abs().amax(1, keepdim=True) < torch.inf


def own_logit(logits: Tensor, y: Tensor) -> Tensor:
    """Logit of the label, (n,)."""
    return logits.gather(1, y[:, None])[:, 0]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(logits)[y], (n,). Its gradient vanishes for confident models; see ``rescaled_cross_entropy``."""
    return functional.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest other logit minus the label's logit, (n,); positive if misclassified (Carlini and Wagner, 2017)."""
    return best_other(logits, y) - own_logit(logits, y)


def difference_of_logits_ratio(logits: Tensor, y: Tensor) -> Tensor:
    """DLR loss, (n,): the margin divided by the gap between the largest and the third-largest logit.

    It is invariant to shift and scale of the logits and needs at least three classes. Croce and Hein, "Reliable
    evaluation of adversarial robustness...", 2020, equation 6.
    """
    ordered = logits.sort(1, descending=True).values
    return margin(logits, y) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The target's logit minus the label's, (n,); arguments as below."""
    return own_logit(logits, target) - own_logit(logits, y)


def targeted_difference_of_logits_ratio(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Targeted DLR loss, (n,): the target's logit minus the label's, divided by the spread of the largest logits.

    The spread is the largest logit minus the mean of the third- and fourth-largest. Needs at least four classes.
    Croce and Hein 2020, equation 7.

    Args:
        logits: (n, classes).
        y: labels, int64 (n,).
        target: target class of each sample, int64 (n,).
    """
    loss: Tensor = _TargetedDLR.apply(logits, torch.stack([target, y], 1))
    return loss


class _TargetedDLR(torch.autograd.Function):
    """Its gradient in a third of the operations that autograd takes for it, and with the same bits."""

    @staticmethod
    def forward(context: Any, logits: Tensor, pair: Tensor) -> Tensor:
        ordered, classes = logits.sort(1, descending=True)
        spread = torch.sub(ordered[:, 0], ordered[:, 2] + ordered[:, 3], alpha=0.5) + 1e-12
        to, of = logits.gather(1, pair).unbind(1)
        loss = (to - of) / spread
        context.save_for_backward(logits, pair, classes, spread, loss)
        return loss

    @staticmethod
    def backward(context: Any, slope: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        logits, pair, classes, spread, loss = context.saved_tensors
        of_pair, of_spread = slope / spread, slope * (loss / spread)
        slopes = torch.stack([of_pair, of_pair, of_spread, of_spread, of_spread], 1).mul_(_shares(logits.device))
        # No class occurs more than twice, so the order of the additions does not show.
        places = torch.cat([pair, classes[:, :1], classes[:, 2:4]], 1)
        return torch.zeros_like(logits).scatter_add_(1, places, slopes), None


@cache
def _shares(device: torch.device) -> Tensor:
    """Of target, label, largest, third- and fourth-largest logit in the slopes of ``_TargetedDLR``."""
    return torch.tensor([1.0, -1.0, -1.0, 0.5, 0.5], device=device)


def divergence(logits: Tensor, clean_logits: Tensor) -> Tensor:
    """KL(p(x) || p(x_adv)), (n,): the loss of the inner attack of TRADES (Zhang et al., 2019). It ignores labels.

    Its gradient is zero at the clean image, so the attack needs a random start.
    """
    return functional.kl_div(logits.log_softmax(1), clean_logits.log_softmax(1), reduction="none", log_target=True).sum(
        1
    )


def rescaled_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits divided by their range, (n,). Its gradient does not vanish at any scale of the logits."""
    spread = (logits.amax(1) - logits.amin(1)).detach().clamp(min=1e-12)
    return cross_entropy(logits / spread[:, None], y)


def check_classes(classes: int, least: int, what: str, remedy: str) -> None:
    """Check that a model has enough classes for a loss.

    Args:
        classes: number of classes of the model.
        least: smallest number that the loss supports.
        what: name of the loss in the message ("the DLR loss").
        remedy: advice in the message ("use apgd-ce").

    Raises:
        AdvdpnpError: it has fewer than ``least``.
    """
    if classes < least:
        raise AdvdpnpError(f"{what} needs at least {least} classes and the model has {classes}; {remedy}")


def _of_label(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda logits, y, clean_logits=None: function(logits, y)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "ce": _of_label(cross_entropy),
    "margin": _of_label(margin),
    "dlr": _of_label(difference_of_logits_ratio),
    "rescaled-ce": _of_label(rescaled_cross_entropy),
    "kl": lambda logits, y, clean_logits: divergence(logits, clean_logits),
}
"""Functions of (logits, labels, logits of the clean images), by name."""

TARGETED_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "dlr-targeted": targeted_difference_of_logits_ratio,
    "margin-targeted": targeted_margin,
}
"""Functions of (logits, labels, targets), by name. Attacks that maximise them search at several targets in turn."""

OF_CLEAN_LOGITS = frozenset({"kl"})
"""Losses that depend on the logits of the clean images; the others ignore that argument."""
