"""Adversarial training: cross-entropy on the images of the inner attack."""

from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from advdpnp.training.methods.base import METHODS, STRICT, Common, Terms, accuracy


@METHODS.register(
    "pgd-at",
    description="adversarial training: cross-entropy on PGD images",
    reference="Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018 (arXiv 1706.06083)",
)
@dataclass(frozen=True, config=STRICT)
class PGDAdversarialTraining(Common):
    """Cross-entropy on adversarial images only (Madry et al. 2018, section 2.1)."""

    adversarial: ClassVar[bool] = True
    head: ClassVar[str] = "linear"

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        logits = model(x_adv)
        loss = self.cross_entropy(logits, y)
        return loss, {"ce_adv": loss, "adversarial_accuracy": accuracy(logits, y)}
