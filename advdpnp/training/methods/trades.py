"""TRADES: cross-entropy on clean images, and the divergence between clean and adversarial outputs."""

from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from advdpnp.training.methods.base import METHODS, STRICT, Common, Terms, accuracy
from advdpnp.training.methods.prototypes.losses import kl_consistency


@METHODS.register(
    "trades",
    description="cross-entropy on clean images plus beta times KL from clean to adversarial output",
    reference="Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, 2019",
)
@dataclass(frozen=True, config=STRICT)
class TRADES(Common):
    """CE(x) + beta * KL(p(x) || p(x_adv)); the inner attack maximises the KL (Zhang et al. 2019, equation 5).

    Attributes:
        beta: weight of the divergence (the paper's 1/lambda; 6 in its experiments).
    """

    adversarial: ClassVar[bool] = True
    head: ClassVar[str] = "linear"
    inner_objective: Literal["ce", "margin", "dlr", "rescaled-ce", "kl"] = "kl"
    beta: float = 6.0

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        clean, adversarial = model(x), model(x_adv)
        ce, divergence = self.cross_entropy(clean, y), kl_consistency(clean, adversarial)
        terms = {"ce": ce, "consistency": divergence}
        terms |= {"clean_accuracy": accuracy(clean, y), "adversarial_accuracy": accuracy(adversarial, y)}
        return ce + self.beta * divergence, terms
