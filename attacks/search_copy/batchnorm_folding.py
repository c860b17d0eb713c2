"""Batch normalisation folded into the layer before it.

In evaluation mode a normalisation is one number to multiply by and one to add for each channel; the convolution or
linear layer before it can do both with other weights. This saves a pass over every feature map, forward and
backward, which takes a good part of the time of small nets.
"""

from collections import Counter
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

_DIMENSIONS = {
    nn.Conv2d: 4,
    nn.Linear: 2,
}  # of a layer's output; with another number, the normalised channels are others
_NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d)


def fold_normalisation(model: nn.Module, example: Tensor) -> bool:
    """Fold in place wherever a normalisation's input is one layer's output; returns whether any was folded.

    The caller must compare results: a layer's output may be used elsewhere too.

    Args:
        model: in evaluation mode.
        example: images (n, c, h, w) for the forward pass that finds the pairs.
    """
    pairs = _pairs(model, example)
    for layer, normalisation in pairs:
        _fold(layer, normalisation)
    folded = {normalisation for _, normalisation in pairs}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in folded:
                setattr(parent, name, nn.Identity())
    return bool(pairs)


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[nn.Module, nn.Module]]:
    """(layer, normalisation) where the one's output is the other's input, and neither is called twice."""
    calls: Counter[nn.Module] = Counter()
    outputs: list[tuple[nn.Module, Any]] = []
    inputs: list[tuple[nn.Module, Any]] = []

    def watch(module: nn.Module, given: tuple[Any, ...], gives: Any) -> None:
        calls[module] += 1
        if isinstance(module, _NORMALISATIONS):
            inputs.append((module, given[0]))
        elif gives.dim() == _DIMENSIONS[type(module)]:
            outputs.append((module, gives))

    with ExitStack() as stack, torch.no_grad():
        for module in model.modules():
            if type(module) in _DIMENSIONS or (type(module) in _NORMALISATIONS and _is_fixed(module)):
                stack.callback(module.register_forward_hook(watch).remove)
        model(example.clone())
    source = {id(output): layer for layer, output in outputs}  # all are alive, so no two have the same name
    pairs = [(source[id(taken)], normalisation) for normalisation, taken in inputs if id(taken) in source]
    takers = Counter(layer for layer, _ in pairs)
    return [(a, b) for a, b in pairs if calls[a] == calls[b] == takers[a] == 1]


def _is_fixed(normalisation: nn.Module) -> bool:
    return not normalisation.training and normalisation.running_mean is not None


def _fold(layer: Any, normalisation: Any) -> None:
    """Give ``layer`` the weights that compute both; in float64."""
    scale = 1 / (normalisation.running_var.double() + normalisation.eps).sqrt()
    if normalisation.weight is not None:
        scale = scale * normalisation.weight.double()
    bias = -normalisation.running_mean.double() * scale
    if layer.bias is not None:
        bias = bias + layer.bias.double() * scale
    if normalisation.bias is not None:
        bias = bias + normalisation.bias.double()
    weight = layer.weight.double() * scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
    dtype = layer.weight.dtype
    layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
