"""The +-ED-WTA head: every neuron compares its distances to a positive and to a negative prototype."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError

_START = 0.01  # prototypes start uniform in +-0.01, the authors' "random" start

WINNERS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda scores: scores.amax(2),
    "logsumexp": lambda scores: scores.logsumexp(2),
}
"""Logits of classes (n, classes) from scores of their sub-classes (n, classes, subclasses)."""


class EDWTAHead(nn.Module):
    """The +-ED-WTA layer (Zarei-Sabzevar, Ghiasi-Shirazi and Harati 2020, arXiv 2008.08750).

    A neuron stands for one sub-class of a class. Its score is beta (d- - d+), half the squared Euclidean distance of
    the features to its negative prototype minus that to its positive one. The class of the highest score wins.

    Args:
        dim: length of a feature vector.
        classes: number of classes.
        subclasses: neurons per class (K).
        winner: how the scores of a class become its logit: "max" (winner takes all, as in the paper) or "logsumexp".

    Attributes:
        positive, negative: prototypes w+ and w-, (classes, subclasses, dim).
        beta: learned scale of all scores, which must stay positive.
    """

    def __init__(self, dim: int, classes: int, subclasses: int, winner: str = "max") -> None:
        super().__init__()
        shape = (classes, subclasses, dim)
        self.winner = winner
        self.positive = nn.Parameter(torch.empty(shape).uniform_(-_START, _START))
        self.negative = nn.Parameter(torch.empty(shape).uniform_(-_START, _START))
        self.beta = nn.Parameter(torch.tensor(1.0))

    def forward(self, features: Tensor) -> Tensor:
        """Features (n, dim) to logits (n, classes)."""
        return self.logits(self.scores(features, self.positive, self.negative))

    def logits(self, scores: Tensor) -> Tensor:
        """Logits (n, classes) of scores (n, classes, subclasses)."""
        return WINNERS[self.winner](scores)

    def scores(self, features: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Scores (n, classes, subclasses) of features (n, dim) for the given prototypes, which may be detached.

        beta (w+ - w-) . (x - (w+ + w-) / 2) equals beta (d- - d+). It keeps its digits where w+ and w- nearly coincide,
        as they do after training; the difference of the two distances does not.
        """
        difference = positive - negative
        threshold = (difference * (positive + negative)).sum(2) / 2
        flat = nn.functional.linear(features, difference.flatten(0, 1), -threshold.flatten())
        return self.beta * flat.reshape(len(features), *threshold.shape)

    def class_distances(self, features: Tensor) -> Tensor:
        """Euclidean distances of features (n, dim) to the nearest positive prototype of each class, (n, classes)."""
        # From differences: the expanded square is inaccurate for small distances.
        flat = torch.cdist(features, self.positive.flatten(0, 1), compute_mode="donot_use_mm_for_euclid_dist")
        return flat.reshape(len(features), *self.positive.shape[:2]).amin(2)

    def extra_repr(self) -> str:
        classes, subclasses, dim = self.positive.shape
        return f"{dim} -> {classes} x {subclasses}, winner {self.winner}"


def require_positive_scale(head: nn.Module, place: str) -> None:
    """Check beta of a +-ED-WTA head; other heads have none. A negative one would turn every decision round.

    Args:
        place: the file or the moment of training, for the message.

    Raises:
        AdvdpnpError: beta is zero, negative or not a number.
    """
    if isinstance(head, EDWTAHead) and not bool(head.beta > 0):
        raise AdvdpnpError(
            f"the scale beta of the head is {head.beta.item():.3g} in {place}, but it must be positive; lower "
            "optimiser.beta_lr, or use an earlier checkpoint"
        )
