"""Logits and features of a model in one pass, by the same executor that runs attacks and verifies what they find."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advdpnp.attacks.engine.executor import Executor, answered
from advdpnp.attacks.rows import Rows
from advdpnp.models.network import Network


@dataclass(frozen=True)
class Outputs(Rows):
    """What scores are computed from.

    Attributes:
        logits: float64 (n, classes).
        features: penultimate features, float64 (n, dim); (n, 0) where the model shows only logits.
    """

    logits: Tensor
    features: Tensor

    @property
    def prediction(self) -> Tensor:
        """Predicted classes, int64 (n,)."""
        return self.logits.argmax(1)


class _SideBySide(nn.Module):
    """Images to logits and features in one tensor, (n, classes + dim), as the executor wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.model, Network):
            return self.model(x)  # type: ignore[no-any-return]
        features = self.model.features(x)
        return torch.cat([self.model.head(features), features], dim=1)


class OutputReader:
    """Outputs of one model, which the caller keeps in ``evaluation_mode`` and on ``device``.

    Attributes:
        size: rows of every model call; ``gradient`` takes exactly so many images.
        head: the classifier on the features; None where the model shows only logits.
    """

    def __init__(self, model: nn.Module, classes: int, static_batch_size: int, device: torch.device) -> None:
        self._executor = Executor(_SideBySide(model), static_batch_size, device)
        self._classes, self.size = classes, static_batch_size
        self.head: nn.Module | None = model.head if isinstance(model, Network) else None

    def read(self, x: Tensor) -> Outputs:
        """Outputs of any number of images, float32 (n, c, h, w) in [0, 1].

        Raises:
            ModelError: the model fails, or its outputs are not finite.
        """
        return self._split(self._executor.logits(x))

    def gradient(self, x: Tensor, objective: Callable[[Outputs], Tensor]) -> tuple[Outputs, Tensor]:
        """Outputs of ``size`` images, and the gradient (n, c, h, w) of ``objective``, which gives one value per row."""
        values, gradient = self._executor.logits_and_gradient(x, lambda values: objective(self._split(values)))
        return self._split(values), gradient

    def _split(self, values: Tensor) -> Outputs:
        values = answered(values)
        return Outputs(values[:, : self._classes].double(), values[:, self._classes :].double())
