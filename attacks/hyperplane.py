"""The nearest point of a hyperplane inside the box, per sample, without sorting (for FAB)."""

import torch
from torch import Tensor

_ROUNDS = 60  # each fixes at least one more coordinate at the box; a handful are enough in practice


def project_to_hyperplane(
    points: Tensor, normal: Tensor, level: Tensor, norm: str, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """The shortest delta with <normal, points + delta> = level and points + delta in the box.

    With direction s_i, room u_i to the box's edge and w = |normal|, delta_i = s_i min(t_i, u_i), where t_i is lambda
    for Linf and lambda w_i for L2, and lambda solves sum_i w_i min(t_i, u_i) = |gap|. The left side is concave and
    piecewise linear in lambda, so Newton's iteration from below reaches the solution exactly, in a few rounds, where
    the usual way sorts all coordinates.

    Args:
        points: (n, c, h, w) in the box.
        normal: (n, c, h, w).
        level: (n,).
        norm: "linf" or "l2".

    Returns:
        delta (n, c, h, w). Where the box holds no such point, as far as the box allows.
    """
    w = normal.flatten(1)
    flat = points.flatten(1)
    gap = level - (w * flat).sum(1)
    direction = torch.sign(w) * torch.sign(gap)[:, None]
    room = torch.where(direction > 0, high - flat, flat - low) * direction.abs()
    weight, wanted = w.abs(), gap.abs()[:, None]
    rate = weight if norm == "l2" else torch.ones_like(weight)
    gain, reach = weight * rate, weight * room
    whole = gain.sum(1, keepdim=True)
    scale = torch.where(whole > 0, wanted / whole, torch.inf)
    for _ in range(_ROUNDS):
        free = rate * scale < room
        slope = (gain * free).sum(1, keepdim=True)
        solved = torch.where(slope > 0, (wanted - (reach * ~free).sum(1, keepdim=True)) / slope, torch.inf)
        solved = torch.maximum(solved, scale)  # rounding must not send it back and forth
        if bool((solved == scale).all()):  # a row that has arrived stays, so its company changes nothing
            break
        scale = solved
    return (direction * torch.minimum(torch.nan_to_num(rate * scale, nan=0.0), room)).view_as(points)
