"""The interface and the registry of training methods. A method is a loss over clean and adversarial images."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.registry import Registry
from advdpnp.training.recipe import explain

#: Named scalars of one step. Names that end in "accuracy" are shares of the batch, the others are parts of the loss.
Terms = dict[str, Tensor]

METHODS = Registry("method", "advdpnp.methods")

#: Every method rejects unknown values and numbers that are not finite.
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


class Method(Protocol):
    """A training method, which is independent of devices, precision, schedules and data sets.

    Attributes:
        adversarial: whether the loss needs adversarial images; if not, ``x_adv`` is None.
        head: the head that the method needs, a key of ``advdpnp.models.HEADS``.
        inner_objective: name of the loss that the training attack maximises (see ``advdpnp.attacks.losses``).
    """

    adversarial: ClassVar[bool]
    head: ClassVar[str]
    inner_objective: str

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor | None, y: Tensor) -> tuple[Tensor, Terms]:
        """The scalar to minimise and its terms, for images (n, c, h, w) in [0, 1] and labels (n,)."""
        ...

    def start_training(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Called once, before the first epoch of a new run, on every process alike.

        Args:
            batches: all training images without augmentation, float (n, c, h, w) in [0, 1], and their labels (n,).
                They are made while they are read, so a method that reads none loses nothing.
        """
        ...

    def start_epoch(self, model: nn.Module) -> None:
        """Called before the first step of every epoch."""
        ...

    def end_step(self, model: nn.Module) -> None:
        """Called after every step of the optimiser."""
        ...


@dataclass(frozen=True, config=STRICT)
class Common:
    """Values that all methods have.

    Attributes:
        inner_objective: the loss that the training attack maximises.
        label_smoothing: share of the target distributed evenly over all classes, in every cross-entropy of the loss.
            The training attack uses the labels themselves.
    """

    inner_objective: Literal["ce", "margin", "dlr", "rescaled-ce", "kl"] = "ce"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of logits (n, classes) with labels (n,)."""
        return F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)

    def start_training(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        pass

    def start_epoch(self, model: nn.Module) -> None:
        pass

    def end_step(self, model: nn.Module) -> None:
        pass


def build_method(values: dict[str, Any]) -> Method:
    """Build the method that the ``method`` section of a recipe describes.

    Raises:
        AdvdpnpError: the name is missing or unknown, or a value is unknown or invalid.
    """
    arguments = dict(values)
    name = arguments.pop("name", None)
    if not isinstance(name, str):
        raise AdvdpnpError(f"the recipe names no method; set method.name to one of {', '.join(METHODS.names())}")
    build = METHODS.find(name)[0].build
    try:
        method: Method = build(**arguments)
    except ValidationError as error:
        known = getattr(build, "__pydantic_fields__", {})
        raise AdvdpnpError(f"the method {name} cannot be built: {explain(error, known)}") from error
    return method


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Share of the batch that is classified correctly."""
    with torch.no_grad():
        return (logits.argmax(1) == y).float().mean()
