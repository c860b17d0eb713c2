"""Counts the model evaluations of a package's attack."""

import torch
from torch import Tensor, nn


class QueryCounter(nn.Module):
    """Wraps a model and counts the rows of forward and backward passes.

    Input gradients are made contiguous: the packages call ``.view`` on them, which fails for channels_last models.
    Images in float64, which some packages make in NumPy, become float32.

    Attributes:
        forwards, backwards: rows since the last ``reset``.
        first_zero: rows whose first gradient since the last ``reset`` was exactly zero (or not finite), bool (m,). None
            before the first gradient.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.reset()

    def reset(self) -> None:
        self.forwards, self.backwards = 0, 0
        self.first_zero: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        if x.requires_grad and torch.is_grad_enabled():
            x = x.view_as(x)
            x.register_hook(self._backward)
        # Some packages ask in other precisions, and none expects another one back.
        return self.model(x.float().clone()).float()  # type: ignore[no-any-return]

    def _backward(self, gradient: Tensor) -> Tensor:
        self.backwards += len(gradient)
        if self.first_zero is None:
            self.first_zero = ((gradient == 0) | ~torch.isfinite(gradient)).flatten(1).all(1)
        return gradient.contiguous()
