"""DPP: prototypes with only the positive term, to which DPNP adds negative terms."""

from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from advdpnp.training.methods.base import METHODS, STRICT, Terms
from advdpnp.training.methods.prototypes.prototype_based import Pulling, with_prototypes


@METHODS.register(
    "dpp",
    description="prototypes as weights and centres, attraction only; clean images",
    reference="the baseline of arXiv 2501.02477 (reconstruction)",
    status="reconstruction",
)
@dataclass(frozen=True, config=STRICT)
class DPP(Pulling):
    """Cross-entropy, and attraction of the features to the prototype of their class."""

    adversarial: ClassVar[bool] = False

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        network, head = with_prototypes(model)
        return self.pulling_terms(head, network.features(x), head.prototypes, y)
