"""The prototype head, whose vector of a class is both its classifier weight and its centre, and MinSep."""

import math

import torch
from torch import Tensor, nn

from advdpnp.models.ed_wta import EDWTAHead


class PrototypeHead(nn.Module):
    """Logits are the inner products <h(x), c_j> with the prototypes (DPNP, arXiv 2501.02477), over a temperature.

    Args:
        dim: length of a feature vector.
        classes: number of classes.
        radius: radius alpha of the sphere that ``renormalise`` projects the prototypes onto.
        temperature: divisor of the inner products; 1 in the paper. At a large radius, a higher temperature keeps the
            softmax from saturating.
    """

    def __init__(self, dim: int, classes: int, radius: float, temperature: float = 1.0) -> None:
        super().__init__()
        self.radius = radius
        self.temperature = temperature
        self.prototypes = nn.Parameter(torch.randn(classes, dim))
        self.renormalise()

    def forward(self, features: Tensor) -> Tensor:
        """Features (n, dim) to logits (n, classes)."""
        return self.logits(features, self.prototypes)

    def logits(self, features: Tensor, prototypes: Tensor) -> Tensor:
        """Logits (n, classes) of features (n, dim) for the given prototypes, which may be detached."""
        return features @ prototypes.T / self.temperature

    def class_distances(self, features: Tensor) -> Tensor:
        """Euclidean distances of features (n, dim) to the prototype of each class, (n, classes)."""
        # From differences: the expanded square is inaccurate for small distances.
        return torch.cdist(features, self.prototypes, compute_mode="donot_use_mm_for_euclid_dist")

    @torch.no_grad()
    def renormalise(self) -> None:
        """Project every prototype onto the sphere, keeping its direction."""
        self.prototypes.copy_(nn.functional.normalize(self.prototypes, dim=1) * self.radius)

    def extra_repr(self) -> str:
        classes, dim = self.prototypes.shape
        return f"{dim} -> {classes}, radius {self.radius:g}, temperature {self.temperature:g}"


class CentreHead(nn.Linear):
    """A linear classifier with a learned centre per class (Wen et al. 2016) that does not affect the logits.

    Args:
        dim: length of a feature vector.
        classes: number of classes.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__(dim, classes)
        self.centres = nn.Parameter(torch.randn(classes, dim))


def class_vectors(head: nn.Module) -> Tensor:
    """The vector of each class in a head, (classes, dim), whose direction is what the logit of the class grows along.

    These are the prototypes of DPNP, the rows of a linear layer's weight, or the mean of w+ - w- over the sub-classes
    of a class in +-ED-WTA.
    """
    if isinstance(head, EDWTAHead):
        return (head.positive - head.negative).mean(1)
    if isinstance(head, PrototypeHead):
        return head.prototypes
    if isinstance(head, nn.Linear):
        return head.weight
    raise TypeError(f"a {type(head).__name__} has no vector per class")


def learned_prototypes(head: nn.Module) -> Tensor | None:
    """The points of feature space that a head has learned to stand for each class, (classes, subclasses, dim).

    These are the prototypes of DPNP, the centres of the centre loss, or w+ of +-ED-WTA. None for a linear layer.
    """
    if isinstance(head, EDWTAHead):
        return head.positive
    if isinstance(head, PrototypeHead):
        return head.prototypes[:, None]
    return head.centres[:, None] if isinstance(head, CentreHead) else None


@torch.no_grad()
def min_separation(vectors: Tensor) -> float:
    """MinSep (DPNP, arXiv 2501.02477): the smallest angle between two of the vectors (classes, dim), in degrees."""
    directions = nn.functional.normalize(vectors.double(), dim=1)
    cosines = (directions @ directions.T).fill_diagonal_(-1)
    largest = float(cosines.max())
    return math.degrees(math.acos(min(1.0, max(-1.0, largest)))) if math.isfinite(largest) else math.nan


def simplex_bound(classes: int, dim: int) -> float:
    """Upper bound of MinSep in degrees: arccos(-1 / (classes - 1)), the angle of the regular simplex.

    The bound is reached only if dim >= classes - 1.
    """
    return math.degrees(math.acos(-1 / (classes - 1)))
