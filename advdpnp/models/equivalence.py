"""Winner-take-all layers of inner products and of Euclidean distances, and how one becomes the other.

The theorem of Zarei-Sabzevar, Ghiasi-Shirazi and Harati 2020 (arXiv 2008.08750), reconstructed: an inner-product layer
(W, b) says argmax_k w_k . x + b_k, a Euclidean layer says argmin_k |x - c_k|, and each can say what the other says for
every x. So the labels of a layer alone do not tell where its prototypes are. Everything is computed in float64.

Shapes: weight, centres, positive, negative (neurons, dim), bias (neurons,).
"""

import math

import torch
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.models.ed_wta import EDWTAHead
from advdpnp.models.prototypes import PrototypeHead

_TOLERANCE = 1e-6  # relative
_RANK = 1e-12  # singular values below this share of the largest are rounding


def euclidean_to_inner_product(centres: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of the same labels: -|x - c|^2 / 2 is c . x - |c|^2 / 2 up to a term that all neurons share.

    Raises:
        AdvdpnpError: the centres are no matrix of finite numbers.
    """
    centres = _matrix(centres, "centres")
    return centres, -centres.square().sum(1) / 2


def inner_product_to_euclidean_by_shift(weight: Tensor, bias: Tensor, near: Tensor | None = None) -> Tensor:
    """Centres of the same labels in the same space: c_k = w_k + v with one v for all neurons.

    It solves w_k . v + |w_k|^2 / 2 + b_k = const, which is possible in general if neurons <= dim + 1.

    Args:
        near: of all solutions, take the one whose mean centre lies nearest to this point (dim,); None for the origin.

    Raises:
        AdvdpnpError: no shift gives the same labels, or the numbers are of the wrong shape or not finite.
    """
    weight, bias = _layer(weight, bias)
    start = (0 if near is None else near.detach().cpu().double()) - weight.mean(0)
    sides = -bias - weight.square().sum(1) / 2
    # Only differences between neurons count, which frees the constant.
    differences, sides = weight - weight.mean(0), sides - sides.mean()
    lacking = sides - differences @ start
    shift: Tensor = start + torch.linalg.pinv(differences, rtol=_RANK) @ lacking
    if (differences @ shift - sides).abs().max() > _TOLERANCE * (sides.abs().max() + lacking.abs().max()):
        neurons, dim = weight.shape
        why = f"{neurons} neurons in {dim} dimensions" if neurons > dim + 1 else "linearly dependent weights"
        raise AdvdpnpError(
            f"no common shift turns this layer into Euclidean distances ({why}); add a coordinate instead "
            "(inner_product_to_euclidean_by_coordinate)"
        )
    return weight + shift


def inner_product_to_euclidean_by_coordinate(weight: Tensor, bias: Tensor) -> Tensor:
    """Centres (neurons, dim + 1) of the same labels, for points (x, 0): c_k = (w_k, h_k). This always exists.

    h_k^2 / 2 = const - b_k - |w_k|^2 / 2, with the smallest constant, so that one neuron has h_k = 0.

    Raises:
        AdvdpnpError: the numbers are of the wrong shape or not finite.
    """
    weight, bias = _layer(weight, bias)
    missing = -bias - weight.square().sum(1) / 2
    return torch.cat([weight, (2 * (missing - missing.min())).sqrt()[:, None]], 1)


def inner_product_to_plus_minus(
    weight: Tensor, bias: Tensor, beta: float = 1.0, near: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Prototypes w+ and w- of a +-ED-WTA layer with the same labels, for any beta > 0.

    w+- = m +- w / (2 beta) with m . w = -b gives the output beta (|x - w-|^2 - |x - w+|^2) / 2 = w . x + b. The
    midpoint m is free on a hyperplane, so these prototypes are not the only ones, and explain nothing by themselves.

    Args:
        near: each midpoint is the point of its hyperplane nearest to this one (dim,); None for the origin.

    Returns:
        positive, negative. The outputs are w . x + b, up to a term that all neurons share if a weight is zero.

    Raises:
        AdvdpnpError: beta is not a positive number, or so large that w+ and w- cannot be told apart in float64; the
            numbers are of the wrong shape or not finite.
    """
    if not (math.isfinite(beta) and beta > 0):
        raise AdvdpnpError(f"beta must be a positive number, not {beta}")
    weight, bias = _layer(weight, bias)
    if bool(((weight == 0).all(1) & (bias != 0)).any()):
        # No midpoint gives a zero weight its bias. One vector added to all weights changes no label.
        weight = weight.clone()
        weight[:, 0] += 1 + weight.norm(dim=1).max()
    point = torch.zeros(weight.shape[1]).double() if near is None else near.detach().cpu().double()
    squares = weight.square().sum(1).clamp(min=torch.finfo(torch.float64).tiny)
    middle = point - ((bias + weight @ point) / squares)[:, None] * weight
    half = weight / (2 * beta)
    positive, negative = middle + half, middle - half
    lost = ((positive - negative) - 2 * half).norm(dim=1) > _TOLERANCE * 2 * half.norm(dim=1)
    if bool(lost.any()) or not bool(positive.isfinite().all()):
        raise AdvdpnpError(
            f"at beta {beta:g}, w+ and w- of this layer are too close for float64 to tell them apart; choose a smaller "
            "beta"
        )
    return positive, negative


def plus_minus_to_inner_product(positive: Tensor, negative: Tensor, beta: float = 1.0) -> tuple[Tensor, Tensor]:
    """Weight beta (w+ - w-) and bias of a +-ED-WTA layer, whose outputs are affine in x.

    Raises:
        AdvdpnpError: the numbers are of the wrong shape or not finite.
    """
    positive, negative = _matrix(positive, "positive prototypes"), _matrix(negative, "negative prototypes")
    if positive.shape != negative.shape:
        raise AdvdpnpError(f"each w+ needs one w-, but there are {tuple(positive.shape)} and {tuple(negative.shape)}")
    weight = beta * (positive - negative)
    return weight, -(weight * (positive + negative)).sum(1) / 2


def inner_product_layer(head: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of the neurons of a head, whose highest output names the class.

    A linear layer is one already. Prototypes are weights without a bias; their temperature changes no label. In
    +-ED-WTA every sub-class is a neuron, those of one class in a row.
    """
    if isinstance(head, EDWTAHead):
        positive, negative = head.positive.flatten(0, 1), head.negative.flatten(0, 1)
        return plus_minus_to_inner_product(positive, negative, head.beta.item())
    if isinstance(head, PrototypeHead):
        return _layer(head.prototypes, torch.zeros(len(head.prototypes)))
    if isinstance(head, nn.Linear):
        return _layer(head.weight, torch.zeros(head.out_features) if head.bias is None else head.bias)
    raise TypeError(f"a {type(head).__name__} has no layer of neurons")


def _layer(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    weight, bias = _matrix(weight, "weights"), bias.detach().cpu().double()
    if bias.shape != weight.shape[:1]:
        raise AdvdpnpError(f"{len(weight)} neurons need {len(weight)} biases, not the shape {tuple(bias.shape)}")
    if not bool(bias.isfinite().all()):
        raise AdvdpnpError("the biases of the layer are not all finite numbers")
    return weight, bias


def _matrix(values: Tensor, what: str) -> Tensor:
    values = values.detach().cpu().double()
    if values.ndim != 2 or 0 in values.shape:
        raise AdvdpnpError(f"the {what} must have the shape (neurons, dim), not {tuple(values.shape)}")
    if not bool(values.isfinite().all()):
        raise AdvdpnpError(f"the {what} of the layer are not all finite numbers")
    return values
