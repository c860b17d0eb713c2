"""Makes the search copy of a model: the same function up to rounding, but faster.

Attacks query the copy, and the model verifies their successes, so a wrong copy cannot create a false success. It can
hide true ones, above all if its gradients are wrong. So a copy is used only if its outputs and its gradients agree with
those of the model.
"""

import copy

import torch
from torch import Tensor, nn

from advdpnp.attacks.search_copy.batchnorm_folding import fold_normalisation
from advdpnp.attacks.search_copy.strided_gradient import StridedConvolution, has_slow_gradient

_TOLERANCE = 1e-4  # relative to the largest logit
_GRADIENT_TOLERANCE = 0.02  # relative to the norm of an image's gradient; rounding stays below it unless a ReLU flips
_OUTLIERS = 4  # one image in this many may exceed it: a ReLU flips if rounding changes the sign of its input


def make_search_copy(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy of ``model`` for attacks, or ``model`` itself if no copy can be made.

    Batch normalisation is folded into the layers before it. On a CPU, image gradients are computed faster (see
    ``StridedConvolution``), and networks with batch normalisation or max-pooling use channels_last, which is faster for
    them.

    Args:
        model: in evaluation mode, without gradients for parameters.
        example: images in [0, 1], (n, c, h, w), on which the copy must agree with the model (see ``is_same_function``).
    """
    if is_observed(model):
        return model
    copies = (_copy(model, example, folded) for folded in (True, False))
    return next((each for each in copies if each is not None), model)


def can_be_folded(model: nn.Module, example: Tensor) -> bool:
    """Whether ``make_folded_copy`` makes a copy of ``model`` that is the same function, whatever its weights are.

    Args:
        example: images in [0, 1], (n, c, h, w), on which the two are compared.
    """
    if is_observed(model) or not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return False
    probe = copy.deepcopy(model).requires_grad_(False).eval()
    # A new layer hardly changes its input, so a wrong copy would agree: compare with other statistics.
    random = torch.Generator().manual_seed(0)
    for module in probe.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean += 0.2 * torch.randn(module.running_mean.shape, generator=random)
            module.running_var *= 0.5 + torch.rand(module.running_var.shape, generator=random)
    try:
        return is_same_function(make_folded_copy(probe, example[:1]), probe, example)
    except (Exception, SystemExit):  # a model's own code may fail in any way
        return False


def make_folded_copy(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy without the batch normalisation that can be folded into the layers before it; see ``can_be_folded``.

    Args:
        model: in evaluation mode. The copy keeps its present weights, so a trained model needs a new one every step.
        example: images in [0, 1], (n, c, h, w), for the forward pass that finds what can be folded; one is enough.
    """
    other = copy.deepcopy(model).requires_grad_(False)
    fold_normalisation(other, example)
    return other.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def is_same_function(other: nn.Module, model: nn.Module, images: Tensor) -> bool:
    """Whether two models agree up to rounding in logits and gradients, of random sums of logits and of the margin.

    Args:
        images: (n, c, h, w) on the models' device.
    """
    try:
        # Also test a single image: a model may depend on the size of the batch.
        return _outputs_agree(other, model, images[:1], _TOLERANCE) and agree(other, model, images)
    except (Exception, SystemExit):  # a model's own code may fail in any way
        return False


def _copy(model: nn.Module, example: Tensor, folded: bool) -> nn.Module | None:
    """A copy, or None if it cannot be made or is a different function."""
    try:
        other = copy.deepcopy(model)
        channels_last = any(isinstance(module, nn.BatchNorm2d | nn.MaxPool2d) for module in other.modules())
        if folded:
            fold_normalisation(other, example)
        if example.device.type == "cpu":
            other = _with_strided_convolutions(other)
            if channels_last:
                other = other.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    except (Exception, SystemExit):  # a model's own code may fail in any way
        return None
    return other if is_same_function(other, model, example) else None


def _with_strided_convolutions(model: nn.Module) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if has_slow_gradient(child):
                setattr(parent, name, StridedConvolution(child))  # type: ignore[arg-type]
    return model


def is_observed(model: nn.Module) -> bool:
    """Whether the model has hooks or parametrisations, which a copy could lose."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        or hasattr(module, "parametrizations")
        for module in model.modules()
    )  # fmt: skip


def agree(
    other: nn.Module,
    model: nn.Module,
    images: Tensor,
    *,
    logits: float = _TOLERANCE,
    gradient: float = _GRADIENT_TOLERANCE,
) -> bool:
    """Whether two models agree in their logits and the gradients of sums of them, up to these relative errors."""
    if not _outputs_agree(other, model, images, logits):
        return False
    with torch.no_grad():
        directions = _directions(model(images.clone()).float())
    found, gradients = _gradients(other, images, directions)
    expected, true = _gradients(model, images, directions)
    pairs = zip(gradients, true, strict=True)
    return _logits_agree(found, expected, logits) and all(_gradients_agree(*pair, gradient) for pair in pairs)


def _outputs_agree(other: nn.Module, model: nn.Module, images: Tensor, tolerance: float) -> bool:
    with torch.no_grad():
        return _logits_agree(other(images.clone()), model(images.clone()), tolerance)


def _logits_agree(logits: Tensor, expected: Tensor, tolerance: float) -> bool:
    logits, expected = (torch.nan_to_num(each, 0.0, 0.0, 0.0) for each in (logits, expected))
    scale = max(float(expected.abs().max()), 1e-12)
    return logits.shape == expected.shape and float((logits - expected).abs().max()) <= tolerance * scale


def _directions(logits: Tensor) -> list[Tensor]:
    """Weights of the logits, (n, classes) each: two random sums, and the margin of the two largest logits."""
    random = torch.Generator().manual_seed(0)
    sums = [torch.randn(logits.shape, generator=random).to(logits) for _ in range(2)]
    first, second = (index[:, None] for index in logits.topk(2, dim=1).indices.unbind(1))
    return [*sums, torch.zeros_like(logits).scatter(1, first, 1.0).scatter(1, second, -1.0)]


def _gradients(model: nn.Module, images: Tensor, directions: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Logits and the gradient of each weighted sum of them, (n, c, h, w); zero if it does not depend on images."""
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        logits = model(x.clone()).float()
        if not logits.requires_grad:
            return logits, [torch.zeros_like(x)] * len(directions)
        sums = [(weights * logits).sum() for weights in directions]
        gradients = [torch.autograd.grad(each, x, retain_graph=True, allow_unused=True)[0] for each in sums]
    return logits.detach(), [torch.zeros_like(x) if each is None else each for each in gradients]


def _gradients_agree(gradients: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Compare the relative error per image. Values that are not finite count as zero, as in a search."""
    gradients, expected = (torch.nan_to_num(each, 0.0, 0.0, 0.0).double().flatten(1) for each in (gradients, expected))
    differs = (gradients - expected).norm(dim=1) > tolerance * expected.norm(dim=1)
    return int(differs.sum()) <= len(differs) // _OUTLIERS
