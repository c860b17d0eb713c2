"""Folding of batch normalisation into the layer before it.

In evaluation mode, batch normalisation is a fixed scale and shift per channel. The convolution or linear layer before
it can include both in its weights. This saves a pass over every feature map, forward and backward, which is a large
part of the time of small networks.
"""

from collections import Counter
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

_DIMENSIONS = {
    nn.Conv2d: 4,
    nn.Linear: 2,
}  # dimensions of a layer's output; with others, a different dimension is normalised
_NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d)


def fold_normalisation(model: nn.Module, example: Tensor) -> bool:
    """Fold every normalisation whose input is the output of one layer, in place. Returns whether there was any.

    The caller must compare outputs, because another module may use the output of the layer too.

    Args:
        model: in evaluation mode.
        example: images in [0, 1], (n, c, h, w), for the forward pass that finds the pairs.
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
    """Pairs (layer, normalisation) in which the layer's output is the normalisation's input, both called once."""
    calls: Counter[nn.Module] = Counter()
    outputs: list[tuple[nn.Module, Any]] = []
    inputs: list[tuple[nn.Module, Any]] = []

    def record(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        calls[module] += 1
        if isinstance(module, _NORMALISATIONS):
            inputs.append((module, arguments[0]))
        elif output.dim() == _DIMENSIONS[type(module)]:
            outputs.append((module, output))

    with ExitStack() as stack, torch.no_grad():
        for module in model.modules():
            if type(module) in _DIMENSIONS or (type(module) in _NORMALISATIONS and _is_fixed(module)):
                stack.callback(module.register_forward_hook(record).remove)
        model(example.clone())
    source = {id(output): layer for layer, output in outputs}  # all tensors are alive, so ids are unique
    pairs = [(source[id(tensor)], normalisation) for normalisation, tensor in inputs if id(tensor) in source]
    uses = Counter(layer for layer, _ in pairs)
    return [(a, b) for a, b in pairs if calls[a] == calls[b] == uses[a] == 1]


def _is_fixed(normalisation: nn.Module) -> bool:
    return not normalisation.training and normalisation.running_mean is not None


def _fold(layer: Any, normalisation: Any) -> None:
    """Set the weights of ``layer`` to compute both; the arithmetic is in float64."""
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
