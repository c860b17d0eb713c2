"""The loss terms of DPNP and Adv-DPNP (arXiv 2501.02477, 2504.03782), each a mean over the batch or the classes.

Every function takes the prototypes as an argument, so the caller decides whether they get a gradient: the adversarial
branch passes ``prototypes.detach()``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Lower bound of squared distances under a root, whose gradient is infinite at zero.
_TINY = 1e-12
_BLOCK = 2**18  # numbers that fit in a processor's cache


def _root_distance(difference: Tensor) -> Tensor:
    return difference.square().sum(-1).clamp_min(_TINY).pow(0.25)


def _sum_of_roots(difference: Tensor) -> Tensor:
    return difference.abs().clamp_min(_TINY**0.5).sqrt().sum(-1)


def _squared_sum_of_roots(difference: Tensor) -> Tensor:
    return _sum_of_roots(difference).square()


#: Interpretations of the papers' "L_1/2" repulsion, each from difference vectors (..., dim) to (...). The first fits
#: the text best ("strongly penalising the smaller distances"); the others are for ablations.
REPULSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "root-distance": _root_distance,
    "sum-of-roots": _sum_of_roots,
    "squared-sum-of-roots": _squared_sum_of_roots,
}


def squared_distances(features: Tensor, prototypes: Tensor) -> Tensor:
    """||h_i - c_j||^2 for features (n, dim) and prototypes (classes, dim); shape (n, classes).

    Computed from differences, because ``cdist`` has NaN gradients at distance zero, and the expanded square is
    inaccurate for small distances, which matter most here.
    """
    return (features[:, None] - prototypes[None]).square().sum(-1)


@torch.no_grad()
def nearest_rival(features: Tensor, prototypes: Tensor, y: Tensor) -> Tensor:
    """Index of the nearest prototype of another class, int64 (n,); never y itself."""
    rows = max(1, _BLOCK // prototypes.numel())  # the differences of all pairs would take gigabytes
    blocks = [squared_distances(block, prototypes) for block in features.split(rows)]
    return torch.cat(blocks).scatter_(1, y[:, None], torch.inf).argmin(1)


def pull(features: Tensor, prototypes: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance of features (n, dim) to the prototype of their class: the positive term of DPP and DPNP."""
    return (features - prototypes[y]).square().sum(1).mean()


def sample_repulsion(features: Tensor, prototypes: Tensor, y: Tensor, reading: str = "root-distance") -> Tensor:
    """Mean "L_1/2" distance of features to the nearest prototype of another class; the loss subtracts it."""
    rivals = prototypes[nearest_rival(features, prototypes, y)]
    return REPULSIONS[reading](features - rivals).mean()


def class_repulsion(prototypes: Tensor, reading: str = "root-distance") -> Tensor:
    """Mean "L_1/2" distance of each prototype to the nearest other prototype; the loss subtracts it."""
    own = torch.arange(len(prototypes), device=prototypes.device)
    return REPULSIONS[reading](prototypes - prototypes[nearest_rival(prototypes, prototypes, own)]).mean()


def kl_consistency(clean_logits: Tensor, adversarial_logits: Tensor) -> Tensor:
    """KL(p(x) || p(x_adv)), mean over the batch; both branches get a gradient.

    The target is in log space, because with probabilities 0 * -inf is NaN if the softmax underflows.
    """
    clean, adversarial = clean_logits.log_softmax(1), adversarial_logits.log_softmax(1)
    return F.kl_div(adversarial, clean, reduction="batchmean", log_target=True)


def mse_consistency(clean_logits: Tensor, adversarial_logits: Tensor) -> Tensor:
    """Squared distance between the probability vectors, mean over the batch."""
    return (clean_logits.softmax(1) - adversarial_logits.softmax(1)).square().sum(1).mean()


CONSISTENCIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"kl": kl_consistency, "mse": mse_consistency}
