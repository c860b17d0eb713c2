"""Adversarial training: cross-entropy on the images that an inner attack found."""

from typing import ClassVar

import torch.nn.functional as F
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from advdpnp.methods.base import METHODS, Terms, accuracy


@METHODS.register(
    "pgd-at",
    description="adversarial training: cross-entropy on PGD images",
    reference="Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018 (arXiv 1706.06083)",
)
@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PGDAdversarialTraining:
    """Cross-entropy on adversarial images alone (Madry et al. 2018, section 2.1)."""

    adversarial: ClassVar[bool] = True
    head: ClassVar[str] = "linear"
    inner_objective: str = "ce"

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        logits = model(x_adv)
        loss = F.cross_entropy(logits, y)
        return loss, {"ce_adv": loss, "adversarial_accuracy": accuracy(logits, y)}

    def start_epoch(self, model: nn.Module) -> None:
        pass
