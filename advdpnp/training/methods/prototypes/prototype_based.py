"""Base classes of the methods with prototypes: the terms of the loss, and the renormalisation of the prototypes."""

from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.models.network import Network
from advdpnp.models.prototypes import PrototypeHead
from advdpnp.training.methods.base import STRICT, Common, Terms, accuracy
from advdpnp.training.methods.prototypes.losses import class_repulsion, pull, sample_repulsion

Repulsion = Literal["root-distance", "sum-of-roots", "squared-sum-of-roots"]


def with_prototypes(model: nn.Module) -> tuple[Network, PrototypeHead]:
    """The model as a network, and its prototype head.

    Raises:
        AdvdpnpError: the model has no prototype head.
    """
    if not (isinstance(model, Network) and isinstance(model.head, PrototypeHead)):
        raise AdvdpnpError("this method needs a network with a prototype head; build it with head='prototype'")
    return model, model.head


@dataclass(frozen=True, config=STRICT)
class Pulling(Common):
    """Cross-entropy, and attraction of the features to the prototype of their class.

    Attributes:
        lambda_pos: weight of the attraction.
        renormalise: when the prototypes are projected onto their sphere: before each epoch (arXiv 2501.02477), after
            each step, or never.
    """

    head: ClassVar[str] = "prototype"
    lambda_pos: float = 0.01
    renormalise: Literal["epoch", "step", "never"] = "epoch"

    def start_epoch(self, model: nn.Module) -> None:
        if self.renormalise == "epoch":
            with_prototypes(model)[1].renormalise()

    def end_step(self, model: nn.Module) -> None:
        if self.renormalise == "step":
            with_prototypes(model)[1].renormalise()

    def pulling_terms(
        self, head: PrototypeHead, features: Tensor, prototypes: Tensor, y: Tensor, suffix: str = "", pulls: bool = True
    ) -> tuple[Tensor, Terms]:
        """Cross-entropy and attraction.

        Args:
            prototypes: detached prototypes get no gradient.
            suffix: suffix of the names of the terms.
            pulls: whether the attraction is part of the loss.

        Returns:
            The loss and its terms.
        """
        logits = head.logits(features, prototypes)
        ce, pos = self.cross_entropy(logits, y), pull(features, prototypes, y)
        name = "adversarial_accuracy" if suffix else "clean_accuracy"
        loss = ce + self.lambda_pos * pos if pulls else ce
        return loss, {f"ce{suffix}": ce, f"pos{suffix}": pos, name: accuracy(logits, y)}


@dataclass(frozen=True, config=STRICT)
class PullingAndRepelling(Pulling):
    """All terms of DPNP.

    Attributes:
        lambda_sample_neg: weight of the repulsion of the features from the nearest prototype of another class.
        lambda_class_neg: weight of the repulsion of each prototype from the nearest other prototype.
        repulsion: the interpretation of "L_1/2" (see ``advdpnp.training.methods.prototypes.losses.REPULSIONS``).
    """

    lambda_sample_neg: float = 0.01
    lambda_class_neg: float = 0.1
    repulsion: Repulsion = "root-distance"

    def sample_terms(
        self,
        head: PrototypeHead,
        features: Tensor,
        prototypes: Tensor,
        y: Tensor,
        suffix: str = "",
        *,
        pulls: bool = True,
        repels: bool = True,
    ) -> tuple[Tensor, Terms]:
        """Cross-entropy, attraction and repulsion of the samples.

        Args:
            prototypes: detached prototypes get no gradient.
            suffix: suffix of the names of the terms.
            pulls, repels: whether the attraction and the repulsion are part of the loss.

        Returns:
            The loss and its terms.
        """
        loss, terms = self.pulling_terms(head, features, prototypes, y, suffix, pulls)
        neg = sample_repulsion(features, prototypes, y, self.repulsion)
        loss = loss - self.lambda_sample_neg * neg if repels else loss
        return loss, {**terms, f"sample_neg{suffix}": neg}

    def class_term(self, prototypes: Tensor) -> tuple[Tensor, Terms]:
        """The repulsion between the prototypes, as a summand of the loss, and its value."""
        between = class_repulsion(prototypes, self.repulsion)
        return -self.lambda_class_neg * between, {"class_neg": between}
