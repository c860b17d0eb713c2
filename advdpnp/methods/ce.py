"""Standard training: cross-entropy on clean images."""

from typing import ClassVar

import torch.nn.functional as F
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from advdpnp.methods.base import METHODS, Terms, accuracy


@METHODS.register("ce", description="standard training: cross-entropy on clean images")
@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class CrossEntropy:
    """Cross-entropy. The baseline that every robust method must beat and every attack must break."""

    adversarial: ClassVar[bool] = False
    head: ClassVar[str] = "linear"
    inner_objective: str = "ce"

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        return loss, {"ce": loss, "clean_accuracy": accuracy(logits, y)}

    def start_epoch(self, model: nn.Module) -> None:
        pass
