"""A copy of a model that searches faster: the same function up to rounding.

Attacks ask the copy; what they find is verified by the model itself. So the copy may cost an attack a success, as any
rounding may, but can never bring it a false one.
"""

import copy

import torch
from torch import Tensor, nn

from advdpnp.attacks.search_copy.batchnorm_folding import fold_normalisation
from advdpnp.attacks.search_copy.strided_gradient import ImageConvolution, is_image_convolution

_TOLERANCE = 1e-4  # of the largest logit


def make_search_copy(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy of ``model`` for attacks on a CPU, or ``model`` itself where none can be made.

    Batch normalisation is folded into the layers before it, gradients with respect to images take a shorter way (see
    ``ImageConvolution``), and nets that had batch normalisation keep channels last, which they are faster with.

    Args:
        model: in evaluation mode, its weights asking for no gradient.
        example: images (n, c, h, w); the copy is used only if it says of them what the model says.
    """
    if example.device.type != "cpu" or _is_observed(model):
        return model
    copies = (_copy(model, example, folded) for folded in (True, False))
    return next((each for each in copies if each is not None), model)


def _copy(model: nn.Module, example: Tensor, folded: bool) -> nn.Module | None:
    """None where it cannot be made, or says something else."""
    try:
        prepared = copy.deepcopy(model)
        normalised = any(isinstance(module, nn.BatchNorm2d) for module in prepared.modules())
        if folded:
            fold_normalisation(prepared, example)
        prepared = _with_image_convolutions(prepared)
        if normalised:
            prepared = prepared.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            # One image too: what a net does with a batch may depend on how many there are.
            same = all(_agree(prepared(part.clone()), model(part.clone())) for part in (example, example[:1]))
        return prepared if same else None
    except (Exception, SystemExit):  # a model's own code may refuse in any way
        return None


def _with_image_convolutions(model: nn.Module) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if is_image_convolution(child):
                setattr(parent, name, ImageConvolution(child))  # type: ignore[arg-type]
    return model


def _is_observed(model: nn.Module) -> bool:
    """Whether hooks or parametrisations act on it: a copy could leave them out."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        or hasattr(module, "parametrizations")
        for module in model.modules()
    )  # fmt: skip


def _agree(logits: Tensor, expected: Tensor) -> bool:
    scale = max(float(expected.abs().max()), 1e-12)
    return logits.shape == expected.shape and float((logits - expected).abs().max()) <= _TOLERANCE * scale
