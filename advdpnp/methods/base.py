"""What a training method is: a loss over clean and adversarial images, and nothing else."""

from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from advdpnp.registry import Registry

#: Named scalars of one step. Those whose name ends in "accuracy" are shares of the batch, the others parts of the loss.
Terms = dict[str, Tensor]

METHODS = Registry("method", "advdpnp.methods")


class Method(Protocol):
    """A training method. It knows nothing of devices, precision, schedules or data sets.

    Attributes:
        adversarial: whether the loss needs adversarial images; if not, ``x_adv`` is None.
        head: the head the method needs: "linear" or "prototype".
        inner_objective: name of what the training attack maximises (see ``advdpnp.attacks.objectives``).
    """

    adversarial: ClassVar[bool]
    head: ClassVar[str]
    inner_objective: str

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        """The scalar to minimise and its terms, for images (n, c, h, w) in [0, 1] and labels (n,)."""
        ...

    def start_epoch(self, model: nn.Module) -> None:
        """Called before the first step of every epoch."""
        ...


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Share of the batch whose largest logit is the label's."""
    with torch.no_grad():
        return (logits.argmax(1) == y).float().mean()
