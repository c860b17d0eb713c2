"""A model under suspicion, and the images it is tried on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advdpnp.attacks.execution import Executor, blaming_model
from advdpnp.errors import ModelError
from advdpnp.randomness import isolated_rng, seed_of


@dataclass(frozen=True)
class Subject:
    """What every measurement is given.

    Attributes:
        model: in ``evaluation_mode``, on the device of ``x``.
        x: images in [0, 1], float32 (n, c, h, w).
        y: labels, int64 (n,), on the same device.
        shape: most rows of a model call.
        seed: of everything random, the noise of a randomised model among it.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    shape: int
    seed: int

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images, which may lie outside [0, 1]; the same noise in every call."""
        with self._noise():
            return Executor(self.model, self.shape, x.device).logits(x)

    def right(self, x: Tensor) -> Tensor:
        """Which images (n, c, h, w) are classified as their labels say, bool (n,)."""
        return self.logits(x).argmax(1) == self.y

    def slopes(self, x: Tensor, objective: Callable[[Tensor, slice], Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and the gradient of an objective (of logits, and of which rows they are), as the model gives it.

        Not finite where the model's is not; zero where the output does not depend on the image.

        Raises:
            ModelError: the model fails, or its logits are not finite.
        """
        logits, gradients = [], []
        with self._noise():
            for start in range(0, len(x), self.shape):
                rows = slice(start, start + self.shape)
                queries = x[rows].detach().clone().requires_grad_()
                with blaming_model("its backward pass"), torch.enable_grad():
                    answer = self.model(queries.clone())
                    gradient = None
                    if answer.requires_grad:
                        (gradient,) = torch.autograd.grad(objective(answer, rows).sum(), queries, allow_unused=True)
                if not bool(torch.isfinite(answer).all()):
                    raise ModelError("the model's logits hold NaN or infinite values for some images")
                logits.append(answer.detach())
                gradients.append(torch.zeros_like(queries) if gradient is None else gradient.detach())
        return torch.cat(logits), torch.cat(gradients)

    @contextmanager
    def _noise(self) -> Iterator[None]:
        with isolated_rng():
            torch.manual_seed(seed_of(self.seed, "sanity") % 2**63)
            yield
