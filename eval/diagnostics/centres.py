"""How near the prototypes of a head, and the Euclidean centres that would give its labels, lie to the data.

A linear layer can be read as distances to centres (``advdpnp.models.equivalence``), but nothing makes such centres
look like the data. Distances are Euclidean, in feature space, in float64.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.diagnostics.geometry import Features
from advdpnp.models.ed_wta import EDWTAHead
from advdpnp.models.equivalence import (
    inner_product_layer,
    inner_product_to_euclidean_by_coordinate,
    inner_product_to_euclidean_by_shift,
)
from advdpnp.models.prototypes import class_vectors, learned_prototypes

SHIFT = "Euclidean centres, by a shift"
COORDINATE = "Euclidean centres, by a coordinate"
_IMAGES = 2000  # compared with each other: all pairs


@dataclass(frozen=True)
class Centres:
    """Points of feature space, one or more per class, beside the features of images.

    Attributes:
        kind: what the points are.
        norms: their lengths.
        nearest: distance of each to the nearest image.
        is_own: whether that image is of the point's own class, bool.
        own_mean: distance of each to the mean feature of its class; NaN where the class has no image.
        missing: why there are no such points, or "".
    """

    kind: str
    norms: Tensor
    nearest: Tensor
    is_own: Tensor
    own_mean: Tensor
    missing: str = ""

    def describe(self) -> dict[str, Any]:
        """Medians over the points as JSON takes them, and the share whose nearest image is of their class."""
        if self.missing:
            return {"kind": self.kind, "n": 0, "missing": self.missing}
        return {
            "kind": self.kind,
            "n": len(self.norms),
            "norm": float(np.median(self.norms)),
            "nearest_image": float(np.median(self.nearest)),
            "own_class_mean": float(np.nanmedian(self.own_mean)),
            "nearest_is_own_class": float(self.is_own.double().mean()),
        }


def measure_centres(features: Features, head: nn.Module) -> list[Centres]:
    """The images themselves, the means of the classes, learned prototypes, and the Euclidean centres of the head.

    Args:
        features: of clean images; the first 2,000 are used.
        head: linear, centre, prototype or ed-wta.
    """
    values, labels = features.values[:_IMAGES], features.labels[:_IMAGES]
    classes = len(class_vectors(head))
    means = torch.stack([values[labels == label].mean(0) for label in range(classes)])  # NaN where there is none

    def measure(kind: str, points: Tensor, own: Tensor, *, themselves: bool = False) -> Centres:
        images = nn.functional.pad(values, (0, points.shape[1] - values.shape[1]))
        distances = torch.cdist(points, images, compute_mode="donot_use_mm_for_euclid_dist")
        if themselves:
            distances.fill_diagonal_(torch.inf)
        nearest, place = distances.min(1)
        targets = nn.functional.pad(means, (0, points.shape[1] - values.shape[1]))[own]
        return Centres(kind, points.norm(dim=1), nearest, labels[place] == own, (points - targets).norm(dim=1))

    every = torch.arange(classes)
    present = torch.unique(labels)
    found = [measure("images", values, labels, themselves=True), measure("means of classes", means[present], present)]
    prototypes = learned_prototypes(head)
    if prototypes is not None:
        subclasses = every.repeat_interleave(prototypes.shape[1])
        found.append(measure("learned prototypes", _flat(prototypes), subclasses))
        if isinstance(head, EDWTAHead):
            found[-1] = replace(found[-1], kind="learned w+")
            found.append(measure("learned w-", _flat(head.negative), subclasses))
    weight, bias = inner_product_layer(head)
    neurons = every.repeat_interleave(len(weight) // classes)
    try:
        found.append(measure(SHIFT, inner_product_to_euclidean_by_shift(weight, bias, values.mean(0)), neurons))
    except AdvdpnpError as error:
        empty = torch.zeros(0)
        found.append(Centres(SHIFT, empty, empty, empty, empty, str(error)))
    found.append(measure(COORDINATE, inner_product_to_euclidean_by_coordinate(weight, bias), neurons))
    return found


def _flat(prototypes: Tensor) -> Tensor:
    return prototypes.detach().cpu().double().flatten(0, 1)
