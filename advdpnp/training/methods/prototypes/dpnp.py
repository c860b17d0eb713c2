"""DPNP: discriminative prototypes with positive and negative terms, on clean images."""

from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from advdpnp.training.methods.base import METHODS, STRICT, Terms
from advdpnp.training.methods.prototypes.prototype_based import PullingAndRepelling, with_prototypes


@METHODS.register(
    "dpnp",
    description="prototypes as weights and centres, attraction and repulsion; clean images",
    reference="arXiv 2501.02477 (reconstruction)",
    status="reconstruction",
)
@dataclass(frozen=True, config=STRICT)
class DPNP(PullingAndRepelling):
    """The complete DPNP loss: the terms of the samples and the repulsion between prototypes."""

    adversarial: ClassVar[bool] = False

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        network, head = with_prototypes(model)
        loss, terms = self.sample_terms(head, network.features(x), head.prototypes, y)
        between, class_terms = self.class_term(head.prototypes)
        return loss + between, {**terms, **class_terms}
