"""Moving averages and adversarial perturbations of weights, and control of BatchNorm statistics."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)

_PROTOTYPES = ("prototypes", "centres", "positive", "negative")  # parameters that are places among the features


class WeightAverage(Generic[N]):
    """A copy of a network whose weights are the moving average of the network's weights.

    Papers: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; Izmailov et al.,
    "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, for BatchNorm.

    Args:
        network: the network being trained.
        decay: weight of the old average in each update, in [0, 1). In step t it is at most (1 + t) / (10 + t), so the
            random start is forgotten within some ten steps; at a fixed decay of 0.999 it would spoil many epochs.
    """

    def __init__(self, network: N, decay: float) -> None:
        self.network: N = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def follow(self, network: N, step: int) -> None:
        """Move the average towards the weights of ``network``, and copy its buffers.

        Args:
            step: number of steps that the run had finished before this one.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, weight in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
        for own, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            own.copy_(buffer)

    def recompute_batchnorm(self, passes: Iterator[Callable[[], object]]) -> None:
        """Replace the BatchNorm statistics by their mean over ``passes``, calls that each process one batch.

        The copied statistics belong to the weights of the last step, but averaged weights give other activations.
        """
        self.network.train()
        with fresh_statistics(self.network), torch.no_grad():
            for forward in passes:
                forward()
        self.network.eval()


@contextmanager
def fresh_statistics(network: nn.Module) -> Iterator[None]:
    """Make BatchNorm layers compute new running statistics inside the block, as the plain mean over its batches.

    Layers in eval mode, those of a frozen backbone, keep their statistics.
    """
    layers = [layer for layer in _tracking_layers(network) if layer.training]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # makes torch compute a cumulative mean
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


@contextmanager
def perturbed_weights(network: nn.Module, gamma: float) -> Iterator[None]:
    """Move every weight matrix along its gradient, by gamma times its own norm, inside the block.

    The perturbation is one ascent step (section 4.2) with the gradients in ``.grad`` on entry, layer by layer as in
    equation 10. Biases, normalisation scales and prototypes are not perturbed: perturbed prototypes would attack the
    class centres instead of the feature extractor. The weights are restored at the end of the block.

    Paper: Wu et al., "Adversarial Weight Perturbation Helps Robust Generalization", NeurIPS 2020.
    """
    kept = []
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.grad is None or weight.dim() < 2 or name.rpartition(".")[2] in _PROTOTYPES:
                continue
            kept.append((weight, weight.detach().clone()))
            weight.add_(weight.grad * (gamma * weight.norm() / weight.grad.norm().clamp_min(1e-12)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in kept:
                weight.copy_(before)


@contextmanager
def untracked_statistics(network: nn.Module) -> Iterator[None]:
    """Make BatchNorm in training mode normalise by the batch without updating its statistics inside the block."""
    layers = _tracking_layers(network)
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def _tracking_layers(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
