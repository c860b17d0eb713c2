"""+-ED-WTA: every sub-class has a positive and a negative prototype, and both are only ever drawn to images."""

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.models.ed_wta import EDWTAHead, require_positive_scale
from advdpnp.models.network import Network
from advdpnp.training.methods.base import METHODS, STRICT, Common, Terms, accuracy

_KMEANS_SEED = 0


@METHODS.register(
    "ed-wta",
    description="a positive and a negative prototype per sub-class, each only attracted; clean images, mini-batches",
    reference="Zarei-Sabzevar, Ghiasi-Shirazi and Harati 2020, arXiv 2008.08750",
)
@dataclass(frozen=True, config=STRICT)
class EDWTA(Common):
    """+-ED-WTA (arXiv 2008.08750) over mini-batches: the loss is the mean of that of the paper over the batch.

    It is the cross-entropy of a softmax over all sub-classes, whose target is the class (competitive cross-entropy). A
    switch decides what learns from an image: positive prototypes of its own class, negative prototypes of the others.
    So each step of the optimiser moves a prototype towards images, never away from one.

    Attributes:
        start: the prototypes before training. "random": both as the head made them. "mean": the positive ones of a
            class are the k-means centres of its training images, the negative ones the mean of all.
        beta: the scale before training.
        switch: whether the switch decides what learns; False lets every prototype follow the whole gradient, which also
            repels, to measure what the switch is worth.
        label_smoothing: must stay 0: smoothed targets would repel prototypes.
    """

    adversarial: ClassVar[bool] = False
    head: ClassVar[str] = "ed-wta"
    start: Literal["random", "mean"] = "random"
    beta: float = Field(default=1.0, gt=0)
    switch: bool = True

    @field_validator("label_smoothing")
    @classmethod
    def _targets_are_classes(cls, value: float) -> float:
        if value:
            raise ValueError("smoothed targets would repel prototypes, which this method never does; leave it out")
        return value

    def start_training(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        network, head = _with_head(model)
        network.eval()
        with torch.no_grad():
            head.beta.fill_(self.beta)
            if self.start == "mean":
                parts = [(network.features(x), y) for x, y in batches]
                features, labels = (torch.cat(part) for part in zip(*parts, strict=True))
                head.positive.copy_(kmeans_centres(features, labels, *head.positive.shape[:2]))
                head.negative.copy_(features.double().mean(0).expand_as(head.negative))

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        network, head = _with_head(model)
        features = network.features(x)
        if self.switch:
            scores = switched_scores(head, features, y)
        else:
            scores = head.scores(features, head.positive, head.negative)
        loss = self.cross_entropy(scores.logsumexp(2), y)
        return loss, {"cce": loss, "beta": head.beta.detach(), "clean_accuracy": accuracy(head.logits(scores), y)}

    def end_step(self, model: nn.Module) -> None:
        require_positive_scale(_with_head(model)[1], "training")


def switched_scores(head: EDWTAHead, features: Tensor, y: Tensor) -> Tensor:
    """Scores (n, classes, subclasses) whose gradients obey the switch of +-ED-WTA.

    For neurons of an image's own class the negative prototype is detached, for all others the positive one. The
    gradients for the features and for beta are those of the plain scores.

    Args:
        features: (n, dim).
        y: labels (n,).
    """
    own = nn.functional.one_hot(y, len(head.positive)).bool()[:, :, None]
    attracts = head.scores(features, head.positive, head.negative.detach())
    repels = head.scores(features, head.positive.detach(), head.negative)
    return torch.where(own, attracts, repels)


def kmeans_centres(features: Tensor, labels: Tensor, classes: int, subclasses: int) -> Tensor:
    """The k-means centres of each class, float64 (classes, subclasses, dim) on the CPU; the same for the same input.

    Args:
        features: (n, dim).
        labels: (n,).

    Raises:
        AdvdpnpError: a class has fewer images than sub-classes.
    """
    from sklearn.cluster import KMeans

    values, labels, centres = features.double().cpu(), labels.cpu(), []
    for label in range(classes):
        own = values[labels == label]
        if len(own) < subclasses:
            raise AdvdpnpError(
                f"class {label} has {len(own)} training images, too few for {subclasses} sub-classes; lower "
                "model.subclasses or set method.start=random"
            )
        found = KMeans(subclasses, random_state=_KMEANS_SEED).fit(own.numpy())
        centres.append(torch.from_numpy(found.cluster_centers_))
    return torch.stack(centres)


def _with_head(model: nn.Module) -> tuple[Network, EDWTAHead]:
    if not (isinstance(model, Network) and isinstance(model.head, EDWTAHead)):
        raise AdvdpnpError("this method needs a network with positive and negative prototypes; set model.head=ed-wta")
    return model, model.head
