"""Scores of the package pytorch-ood (the extra ``detect``), on penultimate features.

The package gives the reported values. It gives no gradients, so each score has a differentiable twin here, made from
what the package fitted; a test holds the two together.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from advdpnp.eval.detection.outputs import Outputs
from advdpnp.eval.detection.scores import SCORES, Detector, Fitting, NotAvailable, Values

NEIGHBOURS = 50
"""The k of the paper on CIFAR-10; fewer where the smallest class has fewer training images."""


def _fitted(name: str, fitting: Fitting, **options: Any) -> tuple[Any, Tensor, Tensor]:
    """A detector of the package, the features it was fitted to, float32 (n, dim), and labels without gaps."""
    if not fitting.outputs.features.shape[1]:
        raise NotAvailable("the model shows only logits, no features")
    try:
        import pytorch_ood.detector
    except ImportError:
        raise NotAvailable("the package pytorch-ood is missing; pip install 'advdpnp[detect]'") from None
    features, labels = _features(fitting.outputs), torch.unique(fitting.labels, return_inverse=True)[1]
    detector = getattr(pytorch_ood.detector, name)(None, **options)
    try:
        detector.fit_features(features, labels)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        raise NotAvailable("the covariance of the features has no inverse") from None
    return detector, features, labels


def _features(outputs: Outputs) -> Tensor:
    return outputs.features.detach().float().contiguous()


def _reported(detector: Any) -> Values:
    return lambda outputs: detector.predict_features(_features(outputs)).to(outputs.features.device).double()


def _quadratic(precision: Tensor) -> Callable[[Tensor], Tensor]:
    """d -> d' precision d over the last dimension.

    Raises:
        NotAvailable: float32 made no positive form of it, so that its values would not be distances.
    """
    form = precision.double()
    if not bool(torch.isfinite(form).all()) or float(torch.linalg.eigvalsh((form + form.T) / 2)[0]) <= 0:
        raise NotAvailable("the covariance of the features is too ill-conditioned for the package's float32")
    return lambda difference: ((difference @ form) * difference).sum(-1)


@SCORES.register(
    "mahalanobis",
    description="half the squared Mahalanobis distance to the nearest class mean, one covariance for all (pytorch-ood)",
    reference="Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial "
    "Attacks, 2018",
)
def mahalanobis(fitting: Fitting) -> Detector:
    detector, _, _ = _fitted("Mahalanobis", fitting)
    form, means = _quadratic(detector.precision), detector.mu.double()
    return Detector(_reported(detector), lambda outputs: form(outputs.features[:, None] - means).amin(1) / 2)


@SCORES.register(
    "relative-mahalanobis",
    description="squared Mahalanobis distance to the nearest class mean minus that to the mean of all (pytorch-ood)",
    reference="Ren et al., A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection, 2021",
)
def relative_mahalanobis(fitting: Fitting) -> Detector:
    detector, _, _ = _fitted("RMD", fitting)
    form, means = _quadratic(detector.precision), detector.mu.double()
    background, centre = _quadratic(detector.background_precision), detector.background_mu.double()

    def twin(outputs: Outputs) -> Tensor:
        return form(outputs.features[:, None] - means).amin(1) - background(outputs.features - centre)

    return Detector(_reported(detector), twin)


@SCORES.register(
    "knn",
    description=f"distance to the {NEIGHBOURS}th nearest training image, features of length 1 (pytorch-ood)",
    reference="Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, 2022",
)
def knn(fitting: Fitting) -> Detector:
    smallest = int(torch.unique(fitting.labels, return_counts=True)[1].min())
    k = min(NEIGHBOURS, smallest)
    detector, features, _ = _fitted("KNN", fitting, k=k)
    known = normalize(features.double(), dim=1)

    def twin(outputs: Outputs) -> Tensor:
        return torch.cdist(normalize(outputs.features, dim=1), known).kthvalue(k).values

    return Detector(_reported(detector), twin)
