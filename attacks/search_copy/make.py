"""A copy of a model that searches faster: the same function up to rounding.

Attacks query the copy; their successes are verified by the model itself, so a wrong copy cannot create a false success.
It could hide a true one, and a wrong gradient would hide nearly all. So a copy must agree with the model in its outputs
and in its gradients, and is dropped otherwise.
"""

import copy

import torch
from torch import Tensor, nn

from advdpnp.attacks.search_copy.batchnorm_folding import fold_normalisation
from advdpnp.attacks.search_copy.strided_gradient import ImageConvolution, is_image_convolution

_TOLERANCE = 1e-4  # of the largest logit
_GRADIENT_TOLERANCE = 0.02  # of the norm of an image's gradient; rounding moves it by less, unless it flips a unit
_OUTLIERS = 4  # one image in so many may exceed it: a ReLU whose input is within rounding of zero may flip


def make_search_copy(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy of ``model`` for attacks on a CPU, or ``model`` itself where none can be made.

    Batch normalisation is folded into the layers before it, image gradients are computed faster (see
    ``ImageConvolution``), and nets that had batch normalisation use channels last, which is faster for them.

    Args:
        model: in evaluation mode, its weights asking for no gradient.
        example: images (n, c, h, w) on which the copy must agree with the model (see ``is_same_function``).
    """
    if example.device.type != "cpu" or _is_observed(model):
        return model
    copies = (_copy(model, example, folded) for folded in (True, False))
    return next((each for each in copies if each is not None), model)


def is_same_function(other: nn.Module, model: nn.Module, images: Tensor) -> bool:
    """Whether two models agree up to rounding: in logits, and in gradients of random sums of logits and of the margin.

    Args:
        images: (n, c, h, w) on the models' device.
    """
    try:
        # A single image too: what a model does may depend on the size of the batch.
        return _outputs_agree(other, model, images[:1]) and _agree(other, model, images)
    except (Exception, SystemExit):  # a model's own code may fail in any way
        return False


def _copy(model: nn.Module, example: Tensor, folded: bool) -> nn.Module | None:
    """None where it cannot be made, or is another function."""
    try:
        other = copy.deepcopy(model)
        normalised = any(isinstance(module, nn.BatchNorm2d) for module in other.modules())
        if folded:
            fold_normalisation(other, example)
        other = _with_image_convolutions(other)
        if normalised:
            other = other.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    except (Exception, SystemExit):  # a model's own code may refuse in any way
        return None
    return other if is_same_function(other, model, example) else None


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


def _agree(other: nn.Module, model: nn.Module, images: Tensor) -> bool:
    if not _outputs_agree(other, model, images):
        return False
    with torch.no_grad():
        directions = _directions(model(images.clone()).float())
    logits, gradients = _gradients(other, images, directions)
    expected_logits, expected = _gradients(model, images, directions)
    return _logits_agree(logits, expected_logits) and all(map(_gradients_agree, gradients, expected))


def _outputs_agree(other: nn.Module, model: nn.Module, images: Tensor) -> bool:
    with torch.no_grad():
        return _logits_agree(other(images.clone()), model(images.clone()))


def _logits_agree(logits: Tensor, expected: Tensor) -> bool:
    scale = max(float(expected.abs().max()), 1e-12)
    return logits.shape == expected.shape and float((logits - expected).abs().max()) <= _TOLERANCE * scale


def _directions(logits: Tensor) -> list[Tensor]:
    """Weights of the logits (n, classes): two random sums, and the margin between the two largest."""
    random = torch.Generator().manual_seed(0)
    sums = [torch.randn(logits.shape, generator=random).to(logits) for _ in range(2)]
    first, second = logits.topk(2, dim=1).indices.T[:, :, None]
    return [*sums, torch.zeros_like(logits).scatter(1, first, 1.0).scatter(1, second, -1.0)]


def _gradients(model: nn.Module, images: Tensor, directions: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the gradient (n, c, h, w) of each weighted sum of them; zero where no image matters."""
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        logits = model(x.clone()).float()
        if not logits.requires_grad:
            return logits, [torch.zeros_like(x)] * len(directions)
        sums = [(weights * logits).sum() for weights in directions]
        found = [torch.autograd.grad(each, x, retain_graph=True, allow_unused=True)[0] for each in sums]
    return logits.detach(), [torch.zeros_like(x) if each is None else each for each in found]


def _gradients_agree(found: Tensor, expected: Tensor) -> bool:
    """By the relative error of each image's gradient; what is not finite counts as zero, as in a search."""
    found, expected = (torch.nan_to_num(each, 0.0, 0.0, 0.0).double().flatten(1) for each in (found, expected))
    apart = (found - expected).norm(dim=1) > _GRADIENT_TOLERANCE * expected.norm(dim=1)
    return int(apart.sum()) <= len(apart) // _OUTLIERS
