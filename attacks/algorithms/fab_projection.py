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
    w, flat = normal.flatten(1), points.flatten(1)
    gap = level - (w * flat).sum(1)
    weight, wanted = w.abs(), gap.abs()[:, None]
    direction = torch.sign(w).mul_(torch.sign(gap)[:, None])
    room = (flat - (high + low) / 2).mul_(direction).neg_().add_((high - low) / 2)
    gain, reach = weight * weight if norm == "l2" else weight, weight * room
    scale = wanted / gain.sum(1, keepdim=True)
    scale = torch.where(torch.isfinite(scale), scale, torch.inf)
    mask, product = torch.empty_like(w), torch.empty_like(w)  # numbers, and memory used again: bools are slow
    for done in range(1, _ROUNDS + 1):
        moved = torch.mul(weight, scale, out=product) if norm == "l2" else scale
        slope = torch.mul(torch.gt(room, moved, out=mask), gain, out=product).sum(1, keepdim=True)
        held = torch.mul(mask.neg_().add_(1), reach, out=product).sum(1, keepdim=True)
        solved = torch.where(slope > 0, (wanted - held) / slope, torch.inf)
        solved = torch.maximum(solved, scale)  # rounding must not send it back and forth
        arrived = solved == scale  # such a row stays as it is, so the rest of the batch does not affect it
        scale = solved
        if _time_to_look(done, scale.device) and bool(arrived.all()):
            break
    moved = torch.nan_to_num(weight * scale, nan=0.0) if norm == "l2" else scale
    return torch.minimum(moved, room).mul_(direction).view_as(points)


def _time_to_look(rounds: int, device: torch.device) -> bool:
    """To ask a GPU whether all rows have arrived makes the host wait for it, so that is done seldom."""
    return device.type == "cpu" or rounds % 8 == 0
