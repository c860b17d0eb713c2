"""A model under suspicion, and the images it is tried on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from advdpnp.attacks.engine.executor import Executor, answered
from advdpnp.attacks.losses import cross_entropy
from advdpnp.base.randomness import seed_of, seeded_rng


@dataclass(frozen=True)
class ModelProbe:
    """What every measurement is given.

    Attributes:
        model: in ``evaluation_mode``, on the device of ``x``.
        x: images in [0, 1], float32 (n, c, h, w).
        y: labels, int64 (n,), on the same device.
        static_batch_size: most rows of a model call.
        seed: of everything random, the noise of a randomised model among it.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    static_batch_size: int
    seed: int

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images, which may lie outside [0, 1]; the same noise in every call.

        Raises:
            ModelError: the model fails, or its logits are not finite.
        """
        with self._noise():
            return answered(self._executor.logits(x))

    @property
    def calls(self) -> int:
        """Calls of the model for the logits of all images."""
        return -(-len(self.x) // self.static_batch_size)

    def right(self, x: Tensor) -> Tensor:
        """Which images (n, c, h, w) are classified as their labels say, bool (n,)."""
        return self.logits(x).argmax(1) == self.y

    @cached_property
    def clean_right(self) -> Tensor:
        """The same of the images as they are."""
        return self.clean_logits.argmax(1) == self.y

    @cached_property
    def clean_logits(self) -> Tensor:
        """Logits of the images as they are, (n, classes)."""
        return self.logits(self.x)

    def slopes(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, classes), and the gradient (n, c, h, w) of the cross-entropy, as the model gives it.

        Raises:
            ModelError: the model fails, or its logits are not finite.
        """
        with self._noise():
            parts = [
                self._executor.logits_and_raw_gradient(images, partial(cross_entropy, y=labels))
                for images, labels in zip(x.split(self.static_batch_size), y.split(self.static_batch_size), strict=True)
            ]
        return answered(torch.cat([logits for logits, _ in parts])), torch.cat([gradient for _, gradient in parts])

    @cached_property
    def _executor(self) -> Executor:
        return Executor(self.model, self.static_batch_size, self.x.device)

    @contextmanager
    def _noise(self) -> Iterator[None]:
        with seeded_rng(seed_of(self.seed, "sanity") % 2**63):
            yield
