"""DPNP: discriminative prototypes with positive and negative terms, on clean images."""

from typing import ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from advdpnp.errors import AdvdpnpError
from advdpnp.losses import class_repulsion, pull, sample_repulsion
from advdpnp.methods.base import METHODS, Common, Terms, accuracy
from advdpnp.models.network import Network
from advdpnp.prototypes import PrototypeHead

Repulsion = Literal["root-distance", "sum-of-roots", "squared-sum-of-roots"]


def with_prototypes(model: nn.Module) -> tuple[Network, PrototypeHead]:
    """The model as a network, and its prototype head.

    Raises:
        AdvdpnpError: it has none.
    """
    if not (isinstance(model, Network) and isinstance(model.head, PrototypeHead)):
        raise AdvdpnpError("this method needs a network with a prototype head; build it with head='prototype'")
    return model, model.head


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PrototypeWeights(Common):
    """How much each geometric term counts.

    Attributes:
        lambda_pos: pull of the features to their own prototype.
        lambda_sample_neg: repulsion of the features from the nearest rival prototype.
        lambda_class_neg: repulsion of each prototype from its nearest rival.
        repulsion: the reading of "L_1/2" (see ``advdpnp.losses.REPULSIONS``).
    """

    lambda_pos: float = 0.01
    lambda_sample_neg: float = 0.01
    lambda_class_neg: float = 0.1
    repulsion: Repulsion = "root-distance"

    def sample_terms(self, features: Tensor, prototypes: Tensor, y: Tensor, suffix: str = "") -> tuple[Tensor, Terms]:
        """Cross-entropy, pull and repulsion of the samples; pass detached prototypes to leave them unmoved."""
        logits = features @ prototypes.T
        ce = self.cross_entropy(logits, y)
        pos = pull(features, prototypes, y)
        neg = sample_repulsion(features, prototypes, y, self.repulsion)
        loss = ce + self.lambda_pos * pos - self.lambda_sample_neg * neg
        name = "adversarial_accuracy" if suffix else "clean_accuracy"
        return loss, {
            f"ce{suffix}": ce,
            f"pos{suffix}": pos,
            f"sample_neg{suffix}": neg,
            name: accuracy(logits, y),
        }

    def clean_loss(self, features: Tensor, prototypes: Tensor, y: Tensor) -> tuple[Tensor, Terms]:
        """The whole DPNP loss (arXiv 2501.02477): the sample terms and the repulsion between the prototypes."""
        loss, terms = self.sample_terms(features, prototypes, y)
        between = class_repulsion(prototypes, self.repulsion)
        return loss - self.lambda_class_neg * between, {**terms, "class_neg": between}


@METHODS.register(
    "dpnp",
    description="prototypes as weights and centres, pulled to their class and pushed from their rivals; clean images",
    reference="arXiv 2501.02477 (reconstruction)",
)
@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DPNP(PrototypeWeights):
    """DPNP. The prototypes go back to their sphere at the start of each epoch."""

    adversarial: ClassVar[bool] = False
    head: ClassVar[str] = "prototype"

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        network, head = with_prototypes(model)
        return self.clean_loss(network.features(x), head.prototypes, y)

    def start_epoch(self, model: nn.Module) -> None:
        with_prototypes(model)[1].renormalise()
