"""Projection onto a hyperplane within the bounds, per sample and without sorting (for FAB)."""

import torch
from torch import Tensor

_ROUNDS = 60  # each fixes at least one more coordinate at a bound; a few are enough in practice


def project_to_hyperplane(
    points: Tensor, normal: Tensor, level: Tensor, norm: str, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """The shortest delta with <normal, points + delta> = level and points + delta within the bounds.

    Let s_i be the direction of coordinate i, u_i its distance to the bound, and w = |normal|. Then
    delta_i = s_i min(t_i, u_i), where t_i is lambda for Linf and lambda w_i for L2, and lambda solves
    sum_i w_i min(t_i, u_i) = |gap|. The left side is concave and piecewise linear in lambda. So Newton's method from
    below reaches the exact solution in a few rounds, without the usual sort of all coordinates.

    Args:
        points: images within the bounds, (n, c, h, w).
        normal: normal of each hyperplane, (n, c, h, w).
        level: offset of each hyperplane, (n,).
        norm: "linf" or "l2".
        low, high: bounds of the coordinates.

    Returns:
        delta, (n, c, h, w). If no point within the bounds is on the hyperplane, delta goes as far as the bounds allow.
    """
    w, flat = normal.flatten(1), points.flatten(1)
    gap = level - (w * flat).sum(1)
    weight, distance = w.abs(), gap.abs()[:, None]
    direction = torch.sign(w).mul_(torch.sign(gap)[:, None])
    room = (flat - (high + low) / 2).mul_(direction).neg_().add_((high - low) / 2)
    gain, reach = weight * weight if norm == "l2" else weight, weight * room
    scale = distance / gain.sum(1, keepdim=True)
    scale = torch.where(torch.isfinite(scale), scale, torch.inf)
    mask, product = torch.empty_like(w), torch.empty_like(w)  # floats in reused memory: bools are slow
    for round_number in range(1, _ROUNDS + 1):
        moved = torch.mul(weight, scale, out=product) if norm == "l2" else scale
        slope = torch.mul(torch.gt(room, moved, out=mask), gain, out=product).sum(1, keepdim=True)
        held = torch.mul(mask.neg_().add_(1), reach, out=product).sum(1, keepdim=True)
        solved = torch.where(slope > 0, (distance - held) / slope, torch.inf)
        solved = torch.maximum(solved, scale)  # rounding must not make it oscillate
        converged = solved == scale  # a converged row no longer changes, so it does not depend on the rest of the batch
        scale = solved
        if _check_now(round_number, scale.device) and bool(converged.all()):
            break
    moved = torch.nan_to_num(weight * scale, nan=0.0) if norm == "l2" else scale
    return torch.minimum(moved, room).mul_(direction).view_as(points)


def _check_now(rounds: int, device: torch.device) -> bool:
    """Whether to check for convergence. On a GPU the check makes the host wait, so it is rare."""
    return device.type == "cpu" or rounds % 8 == 0
