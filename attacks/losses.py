"""What attackers maximise: functions of logits (n, classes) and labels (n,), one number per sample (n,)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from advdpnp.base.errors import AdvdpnpError


def best_other(logits: Tensor, y: Tensor) -> Tensor:
    """The largest logit of any class but the own, (n,). Masked with -inf, so right for logits of any sign."""
    others: Tensor = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1)


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


def targeted_difference_of_logits_ratio(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Lead of the target over the own class, over the gap between the first logit and the mean of third and fourth.

    Croce and Hein 2020, equation 7. Needs four classes or more.
    """
    ordered = logits.sort(1, descending=True).values
    spread = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12
    return (own_logit(logits, target) - own_logit(logits, y)) / spread


def divergence(logits: Tensor, clean_logits: Tensor) -> Tensor:
    """KL(p(x) || p(x_adv)), what the inner attack of TRADES maximises (Zhang et al., 2019); labels play no part.

    Its gradient is zero at the clean image itself, so it needs a random start.
    """
    return functional.kl_div(logits.log_softmax(1), clean_logits.log_softmax(1), reduction="none", log_target=True).sum(
        1
    )


def rescaled_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits divided by their own range, which keeps its gradient at any scale of the logits."""
    spread = (logits.amax(1) - logits.amin(1)).detach().clamp(min=1e-12)
    return cross_entropy(logits / spread[:, None], y)


def check_classes(classes: int, least: int, what: str, remedy: str) -> None:
    """Refuse a model of too few classes for a loss.

    Args:
        what: needs ``least`` classes, as messages call it ("the DLR loss").
        remedy: what to do instead.

    Raises:
        AdvdpnpError: there are fewer.
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
"""By name, as functions of (logits, labels, logits of the clean images)."""

OF_CLEAN_LOGITS = frozenset({"kl"})
"""Those that look at the logits of the clean images; the others may be given anything for them."""
