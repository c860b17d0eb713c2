"""What the learned prototypes of a head stand for: as images, by the nearest training images, and how they are used."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advdpnp.datasets.base import Split
from advdpnp.eval.diagnostics.geometry import Features, features_of
from advdpnp.models.architectures.pixels import Pixels
from advdpnp.models.ed_wta import EDWTAHead
from advdpnp.models.network import Network
from advdpnp.models.prototypes import learned_prototypes

SEARCHED = 10_000
"""Training images among which the nearest are looked for, at most."""

_IMAGES = 6  # nearest images shown of a prototype that is the only one of its class
_CHUNK = 256


@dataclass(frozen=True)
class Nearest:
    """The training images nearest to prototypes, by Euclidean distance in feature space.

    Attributes:
        index: into the images that were searched, int64 (classes, columns): one image per sub-class, or the nearest few
            of the only prototype of a class, the nearest first.
        labels: of these images, int64 (classes, columns).
        distances: (classes, columns).
    """

    index: Tensor
    labels: Tensor
    distances: Tensor

    def describe(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"index": self.index.tolist(), "label": self.labels.tolist(), "distance": self.distances.tolist()}


def nearest_images(prototypes: Tensor, features: Features) -> Nearest:
    """The images nearest to prototypes (classes, subclasses, dim), from the features of training images."""
    classes, subclasses, dim = prototypes.shape
    flat = prototypes.detach().cpu().double().reshape(-1, dim)
    count = 1 if subclasses > 1 else min(_IMAGES, len(features.values))
    distances, index = _cdist(flat, features.values).topk(count, largest=False)
    shape = (classes, subclasses * count)
    index = index.reshape(shape)
    return Nearest(index, features.labels[index], distances.reshape(shape))


def _cdist(a: Tensor, b: Tensor) -> Tensor:
    """Distances (n, m) from differences, a few rows of ``b`` at a time: the expanded square loses small ones."""
    parts = [torch.cdist(a, part, compute_mode="donot_use_mm_for_euclid_dist") for part in b.split(_CHUNK)]
    return torch.cat(parts, 1)


@dataclass(frozen=True)
class PrototypeReport:
    """Everything about the prototypes of one network.

    Attributes:
        images: the training images that were searched.
        nearest: to "w+" and "w-" of +-ED-WTA, or to "prototype".
        pictures: the prototypes themselves as images (classes, subclasses, c, h, w) in [0, 1] or nearly so; only of
            +-ED-WTA on pixels.
        won: images of its class that each sub-class wins, int64 (classes, subclasses).
        ratio: |w+ - w-| / |w+|, (classes, subclasses); None of other heads.
    """

    images: Split
    nearest: dict[str, Nearest]
    pictures: dict[str, Tensor]
    won: Tensor
    ratio: Tensor | None

    def describe(self) -> dict[str, Any]:
        """As JSON takes it."""
        report: dict[str, Any] = {
            "searched": len(self.images),
            "nearest_training_images": {name: found.describe() for name, found in self.nearest.items()},
        }
        if self.ratio is not None:
            report |= {"difference_ratio": self.ratio.tolist(), "images_won": self.won.tolist()}
        return report


def measure_prototypes(network: Network, images: Split) -> PrototypeReport:
    """Compare the prototypes of a network with training images.

    Args:
        network: its head must have prototypes.
        images: training images; the first 10,000 are used.
    """
    head = network.head
    prototypes = learned_prototypes(head)
    if prototypes is None:
        raise TypeError(f"a {type(head).__name__} has no prototypes")
    images = images.head(SEARCHED)
    features = features_of(network, images)
    if not isinstance(head, EDWTAHead):
        everywhere = torch.bincount(features.labels, minlength=len(prototypes))[:, None]
        return PrototypeReport(images, {"prototype": nearest_images(prototypes, features)}, {}, everywhere, None)
    pairs = {"w+": head.positive.detach().cpu().double(), "w-": head.negative.detach().cpu().double()}
    nearest = {name: nearest_images(values, features) for name, values in pairs.items()}
    pictures = {name: found for name, values in pairs.items() if (found := _as_images(network, values)) is not None}
    difference = (pairs["w+"] - pairs["w-"]).norm(dim=2)
    return PrototypeReport(images, nearest, pictures, _won(head, features), difference / pairs["w+"].norm(dim=2))


def _won(head: EDWTAHead, features: Features) -> Tensor:
    """How many images of its own class have their highest score at each sub-class."""
    classes, subclasses, _ = head.positive.shape

    def winners() -> Iterator[Tensor]:
        for values, labels in zip(features.values.split(_CHUNK), features.labels.split(_CHUNK), strict=True):
            scores = head.scores(values.to(head.positive), head.positive, head.negative).detach().cpu()
            yield labels * subclasses + scores[torch.arange(len(labels)), labels].argmax(1)

    return torch.bincount(torch.cat(list(winners())), minlength=classes * subclasses).reshape(classes, subclasses)


def _as_images(network: Network, prototypes: Tensor) -> Tensor | None:
    """Prototypes (classes, subclasses, dim) as images before normalisation; None where features are no pixels."""
    if not (isinstance(network.backbone, Pixels) and isinstance(network.projection, nn.Identity)):
        return None
    config = network.config
    mean, std = (torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1) for values in (config.mean, config.std))
    return prototypes.reshape(*prototypes.shape[:2], config.channels, *config.image_size) * std + mean
