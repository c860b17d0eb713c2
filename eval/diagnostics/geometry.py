"""Geometry of a classifier's features: distances between classes and spread within each.

MinSep, the angle matrix and the simplex bound are those of DPNP (arXiv 2501.02477); the rest is common in the
literature on centre losses. Everything is computed in float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advdpnp.attacks.algorithms.pgd import PGD, perturb
from advdpnp.attacks.engine.executor import evaluation_mode
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import Draw, seed_of
from advdpnp.datasets.base import Split, to_float
from advdpnp.models.ed_wta import EDWTAHead
from advdpnp.models.network import Network
from advdpnp.models.prototypes import class_vectors, learned_prototypes, min_separation, simplex_bound

_BATCH = 256
_SILHOUETTE = 2000  # samples: it compares all pairs


@dataclass(frozen=True)
class Features:
    """Features of a split and what they are measured against.

    Attributes:
        kind: "clean" or the attack's name.
        values: (n, dim), float64, on the CPU.
        labels: int64 (n,).
    """

    kind: str
    values: Tensor
    labels: Tensor


def features_of(network: Network, split: Split, kind: str = "clean", attack: PGD | None = None) -> Features:
    """Penultimate features of a split's images, in eval mode; of what ``attack`` makes of them, if there is one."""
    device = next(network.parameters()).device

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(split), _BATCH):
            x = to_float(split.images[start : start + _BATCH]).to(device)
            if attack is not None:
                y = split.labels[start : start + _BATCH].to(device)
                sample = torch.arange(start, start + len(x), device=device)
                x = perturb(network, x, y, attack, Draw.of(seed_of("geometry"), sample))
            with torch.no_grad():
                yield network.features(x).cpu().double()

    with evaluation_mode(network):
        return Features(kind, torch.cat(list(batches())), split.labels.cpu())


def angle_matrix(vectors: Tensor) -> Tensor:
    """Angles between all pairs of vectors (classes, dim), in degrees, (classes, classes); zero on the diagonal."""
    directions = torch.nn.functional.normalize(vectors.double(), dim=1)
    angles = torch.rad2deg(torch.acos((directions @ directions.T).clamp(-1, 1)))
    return angles.fill_diagonal_(0)


def angles_to(values: Tensor, vectors: Tensor) -> Tensor:
    """Angles of features (n, dim) to every class vector (classes, dim), in degrees, (n, classes)."""
    a, b = (torch.nn.functional.normalize(t.double(), dim=1) for t in (values, vectors))
    return torch.rad2deg(torch.acos((a @ b.T).clamp(-1, 1)))


def distances_to(values: Tensor, prototypes: Tensor) -> Tensor:
    """Distances of features to the nearest prototype of each class, (n, classes).

    Args:
        values: (n, dim).
        prototypes: (classes, subclasses, dim).
    """
    flat = prototypes.double().flatten(0, 1)
    distances = torch.cdist(values.double(), flat, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.reshape(len(values), *prototypes.shape[:2]).amin(2)


def vector_kind(head: nn.Module) -> str:
    """What ``class_vectors`` takes from a head, in words."""
    if isinstance(head, EDWTAHead):
        return "means of w+ - w- over sub-classes"
    return "rows of the weight" if isinstance(head, nn.Linear) else "prototypes"


def describe_vectors(vectors: Tensor, what: str = "class vectors") -> dict[str, Any]:
    """MinSep, what it could be at most, and the whole angle matrix; ``what`` says what the vectors are."""
    classes, dim = vectors.shape
    smallest, bound = min_separation(vectors), simplex_bound(classes, dim)
    return {
        "what": what,
        "classes": classes,
        "dim": dim,
        "min_separation": smallest,
        "simplex_bound": bound,
        "below_bound": bound - smallest,
        "bound_can_be_reached": dim >= classes - 1,
        "angles": angle_matrix(vectors).tolist(),
    }


def describe_features(features: Features, vectors: Tensor, prototypes: Tensor | None = None) -> dict[str, Any]:
    """Spread within classes and separation between them.

    Args:
        vectors: (classes, dim), which angles are measured to.
        prototypes: (classes, subclasses, dim), which distances are measured to; None for the class vectors.

    Returns:
        mean_angle_to_own, mean_angle_to_nearest_rival: of features to class vectors, in degrees.
        mean_distance_to_own: to the nearest prototype of the own class.
        mean_distance_to_nearest_rival: to the nearest prototype of any other class.
        within: mean distance of features to the mean feature of their class.
        between: mean distance between the mean features of a class and of its nearest other class.
        separation_ratio: between / within; larger is better.
        silhouette: Rousseeuw 1987, of at most 2,000 samples, in [-1, 1].
    """
    from sklearn.metrics import silhouette_score

    values, labels = features.values, features.labels
    own = torch.nn.functional.one_hot(labels, len(vectors)).bool()
    angles = angles_to(values, vectors)
    distances = distances_to(values, vectors[:, None] if prototypes is None else prototypes)
    present = torch.unique(labels)
    means = torch.stack([values[labels == label].mean(0) for label in present])
    place = torch.searchsorted(present, labels)
    within = (values - means[place]).norm(dim=1).mean()
    gaps = torch.cdist(means, means).fill_diagonal_(torch.inf).amin(1).mean()
    count = min(len(values), _SILHOUETTE)
    several = 2 <= len(torch.unique(labels[:count])) < count
    return {
        "kind": features.kind,
        "n": len(values),
        "mean_angle_to_own": float(angles[own].mean()),
        "mean_angle_to_nearest_rival": float(angles.masked_fill(own, torch.inf).amin(1).mean()),
        "mean_distance_to_own": float(distances[own].mean()),
        "mean_distance_to_nearest_rival": float(distances.masked_fill(own, torch.inf).amin(1).mean()),
        "within": float(within),
        "between": _finite(gaps),
        "separation_ratio": _finite(gaps / within),
        "silhouette": float(silhouette_score(values[:count].numpy(), labels[:count].numpy())) if several else None,
    }


def _finite(value: Tensor) -> float | None:
    """None instead of infinity, which JSON cannot hold: of one class, or one image per class, nothing is compared."""
    return float(value) if bool(value.isfinite()) else None


def drift(history: Tensor) -> list[float]:
    """Mean angle, in degrees, that class vectors (epochs, classes, dim) turn by from each epoch to the next."""
    directions = torch.nn.functional.normalize(history.double(), dim=2)
    cosines = (directions[1:] * directions[:-1]).sum(2).clamp(-1, 1)
    turned: list[float] = torch.rad2deg(torch.acos(cosines)).mean(1).tolist()
    return turned


def measure_geometry(
    network: Network, split: Split, threat: ThreatModel | None, *, steps: int = 20
) -> tuple[dict[str, Any], list[Features]]:
    """Everything about one network, as JSON takes it, and the features it was computed from.

    Args:
        network: with any head of ``models.network.HEADS``.
        split: images it is measured on.
        threat: also measure the features of PGD images under this threat model.

    Raises:
        AdvdpnpError: fewer than two images.
    """
    if len(split) < 2:
        raise AdvdpnpError("geometry needs at least 2 images; raise --limit")
    vectors = class_vectors(network.head).detach().cpu()
    features = [features_of(network, split)]
    if threat is not None:
        attack = PGD(threat, steps=steps, objective="margin", name=f"pgd-{steps}")
        features.append(features_of(network, split, f"{attack.name}, {threat.label}", attack))
    learned = learned_prototypes(network.head)
    prototypes = None if learned is None else learned.detach().cpu()
    report = {
        "vectors": describe_vectors(vectors, vector_kind(network.head)),
        "features": [describe_features(f, vectors, prototypes) for f in features],
    }
    return report, features


def project(
    features: list[Features], vectors: Tensor, how: str, seed: int = 0, *, scaled: bool = True
) -> list[np.ndarray]:
    """Features and class vectors in two dimensions, by "pca" or "t-sne", in one common embedding.

    Args:
        scaled: scale vectors to the mean length of the clean features, where only directions can be compared.

    Returns:
        one array (n, 2) per entry of ``features``, then one (classes, 2).
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    stars = vectors.detach().cpu().double()
    if scaled:
        stars = torch.nn.functional.normalize(stars, dim=1) * features[0].values.norm(dim=1).mean()
    parts = [*(f.values for f in features), stars]
    missing = max(0, 2 - stars.shape[1])  # features of one dimension lie on a line
    parts = [torch.nn.functional.pad(part, (0, missing)) for part in parts]
    together = torch.cat(parts).numpy()
    if how == "pca":
        flat = PCA(2, random_state=seed).fit(parts[0].numpy()).transform(together)
    else:
        perplexity = min(30.0, (len(together) - 1) / 3)
        flat = TSNE(2, init="pca", perplexity=perplexity, random_state=seed).fit_transform(together)
    return np.split(flat, np.cumsum([len(part) for part in parts])[:-1])
