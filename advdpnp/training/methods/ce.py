"""Standard training: cross-entropy on clean images."""

from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from advdpnp.training.methods.base import METHODS, STRICT, Common, Terms, accuracy


@METHODS.register("ce", description="standard training: cross-entropy on clean images")
@dataclass(frozen=True, config=STRICT)
class CrossEntropy(Common):
    """Cross-entropy on clean images, the baseline without robustness."""

    adversarial: ClassVar[bool] = False
    head: ClassVar[str] = "linear"

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        logits = model(x)
        loss = self.cross_entropy(logits, y)
        return loss, {"ce": loss, "clean_accuracy": accuracy(logits, y)}
