"""The search copy in bfloat16: weights are converted once, and layers hand each other bfloat16.

The images, and what the model does to them before its first layer, stay in float32: bfloat16 has a spacing of 1/256
near 1, which is half of an eps of 2/255. The layer that ends the model stays in float32 too, because attacks compare
logits that differ by little. Normalisations keep their float32 weights; they take bfloat16 as it comes.
"""

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from advdpnp.attacks.search_copy.make import agree, is_observed
from advdpnp.attacks.search_copy.strided_gradient import StridedConvolution

LOW = torch.bfloat16

_DENSE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
_NORMALISATIONS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
_LOGITS, _GRADIENT = 0.1, 0.5  # largest relative errors of a copy: rounding stays below, a wrong conversion does not


def make_low_precision_copy(model: nn.Module, example: Tensor) -> nn.Module | None:
    """A copy of ``model`` that computes in bfloat16 and returns float32 logits, or None if it cannot be made.

    It cannot be made of models whose weights are not in float32 layers of torch, or whose copy answers otherwise.

    Args:
        model: in evaluation mode, without gradients for parameters; best a search copy.
        example: images in [0, 1], (n, c, h, w), on which the copy must roughly agree with the model.
    """
    if is_observed(model) or any(weight.dtype != torch.float32 for weight in model.parameters()):
        return None
    try:
        other = lower(copy.deepcopy(model), example)
    except (Exception, SystemExit):  # a model's own code may fail in any way
        return None
    return other if resembles(other, model, example) else None


def resembles(other: nn.Module, model: nn.Module, images: Tensor) -> bool:
    """Whether ``other`` may be a copy of ``model`` in low precision, by its logits and gradients on images."""
    try:
        return agree(other, model, images, logits=_LOGITS, gradient=_GRADIENT)
    except (Exception, SystemExit):  # a model's own code may fail in any way
        return False


def lower(model: nn.Module, example: Tensor) -> nn.Module:
    """Convert ``model`` in place and return it; see ``make_low_precision_copy``, which also compares the two.

    Raises:
        ValueError: it has less than two layers, so there is nothing to convert.
        Exception: whatever the converted model raises.
    """
    layers = _layers(model, example)
    if len(layers) < 2:
        raise ValueError("nothing to convert")
    for layer in layers[:-1]:
        layer.to(LOW, memory_format=torch.channels_last if isinstance(layer, nn.Conv2d) else torch.preserve_format)  # type: ignore[call-overload]
    for module in model.modules():
        if isinstance(module, StridedConvolution):
            module.kernel = module.kernel.to(module.convolution.weight.dtype)
    kinds = dict.fromkeys(layers[:-1], LOW) | {layers[-1]: torch.float32}
    hooks = {layer: layer.register_forward_pre_hook(_Cast(dtype)) for layer, dtype in kinds.items()}
    with torch.no_grad():
        model(example.clone())
    for layer, hook in hooks.items():
        if not _cast_of(layer).needed:
            hook.remove()  # what enters comes in the right precision
    return model


class _Cast:
    """Converts what enters a layer. It notes whether that was ever needed."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.needed = dtype, False

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self._cast(value) for value in arguments)

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == self.dtype:
            return value
        self.needed = True
        return value.to(self.dtype)


def _cast_of(layer: nn.Module) -> _Cast:
    return next(hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, _Cast))


def _layers(model: nn.Module, example: Tensor) -> list[nn.Module]:
    """Layers with weights in the order of their last calls, the one that ends the model at the end.

    Only layers of torch can be converted; the end may be any module with weights, such as a head of prototypes.
    """
    called: dict[nn.Module, None] = {}

    def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        called.pop(module, None)
        called[module] = None

    with ExitStack() as stack, torch.no_grad():
        for module in _weighted(model):
            stack.callback(module.register_forward_pre_hook(note).remove)
        model(example.clone())
    order = list(called)
    return [*(module for module in order[:-1] if type(module) in _DENSE), *order[-1:]]


def _weighted(model: nn.Module) -> Iterator[nn.Module]:
    """Modules that hold weights themselves and hold no other module that does; no normalisations."""
    for module in model.modules():
        inner = [part for child in module.children() for part in child.parameters()]
        if next(module.parameters(), None) is not None and not inner and not isinstance(module, _NORMALISATIONS):
            yield module
