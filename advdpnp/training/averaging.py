"""A moving average of a network's weights (Polyak and Juditsky 1992; Izmailov et al. 2018 for BatchNorm)."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


class WeightAverage(Generic[N]):
    """A second network whose weights follow the first one's.

    Args:
        network: the one that is trained.
        decay: share of the old average that each step keeps, in [0, 1).
    """

    def __init__(self, network: N, decay: float) -> None:
        self.network: N = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def follow(self, network: N) -> None:
        """One step: weights move by 1 - decay towards those of ``network``; buffers are taken over."""
        for average, weight in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(weight, 1 - self.decay)
        for taken_over, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            taken_over.copy_(buffer)

    def recompute_batchnorm(self, passes: Iterator[Callable[[], object]]) -> None:
        """Replace the BatchNorm statistics by the mean over ``passes``: calls that each send one batch through the net.

        The taken-over statistics belong to the last weights; averaged weights give other activations.
        """
        self.network.train()
        with fresh_statistics(self.network), torch.no_grad():
            for send in passes:
                send()
        self.network.eval()


@contextmanager
def fresh_statistics(network: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm layers gather statistics anew, as the plain mean over all batches they see."""
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's word for a cumulative mean
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
