"""Adversarial weight perturbation (Wu et al., "Adversarial Weight Perturbation Helps Robust Generalization", 2020)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def perturbed_weights(network: nn.Module, gamma: float) -> Iterator[None]:
    """Inside, every weight matrix is moved uphill by gamma times its own norm; afterwards all are exactly as before.

    Uses the gradients of the loss that stand in ``.grad`` on entry (one ascent step, section 4.2), layer by layer as in
    equation 10. Biases and normalisation scales stay, and so do prototypes: moved towards a rival they would make the
    class centres, not the feature extractor, the adversary's.
    """
    kept = []
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.grad is None or weight.dim() < 2 or name.endswith(("prototypes", "centres")):
                continue
            kept.append((weight, weight.detach().clone()))
            weight.add_(weight.grad * (gamma * weight.norm() / weight.grad.norm().clamp_min(1e-12)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in kept:
                weight.copy_(before)
