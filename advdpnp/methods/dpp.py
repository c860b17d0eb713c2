"""DPP: prototypes with the positive term alone, the baseline that DPNP adds its negative terms to."""

from typing import ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from advdpnp.methods.base import METHODS, Common, Terms
from advdpnp.methods.dpnp import PrototypeWeights, with_prototypes


@METHODS.register(
    "dpp",
    description="prototypes as weights and centres, pulled to their class only; clean images",
    reference="the baseline of arXiv 2501.02477 (reconstruction)",
)
@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DPP(Common):
    """Cross-entropy and the pull of the features to their own prototype.

    Attributes:
        lambda_pos: weight of the pull.
    """

    adversarial: ClassVar[bool] = False
    head: ClassVar[str] = "prototype"
    lambda_pos: float = 0.01

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        network, head = with_prototypes(model)
        weights = PrototypeWeights(
            lambda_pos=self.lambda_pos, lambda_sample_neg=0, lambda_class_neg=0, label_smoothing=self.label_smoothing
        )
        return weights.clean_loss(network.features(x), head.prototypes, y)

    def start_epoch(self, model: nn.Module) -> None:
        with_prototypes(model)[1].renormalise()
