"""Projection onto a hyperplane within the bounds, per sample and without sorting (for FAB)."""

import torch
from torch import Tensor

_ROUNDS = 60  # each fixes at least one more coordinate at a bound; a few are enough in practice
_ROUNDS_WITHOUT_LOOKS = {"linf": 8, "l2": 16}
"""On accelerators, where a look at what has converged makes the host wait. With nearly all coordinates at a bound 8
and 14 were needed; with too few the step would be short, not wrong."""


def project_to_hyperplane(
    points: Tensor, normal: Tensor, level: Tensor, norm: str, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """The shortest delta with <normal, points + delta> = level and points + delta within the bounds.

    Let s_i be the direction of coordinate i, u_i its distance to the bound, and w = |normal|. Then
    delta_i = s_i min(t_i, u_i), where t_i is lambda for Linf and lambda w_i for L2, and lambda solves
    sum_i w_i min(t_i, u_i) = |gap|. The left side is concave and piecewise linear in lambda. So Newton's method from
    below reaches the exact solution in a few rounds, without the usual sort of all coordinates.

    Args:
        points: images within the bounds, (n, c, h, w), or several for each hyperplane, (k, n, c, h, w).
        normal: normal of each hyperplane, (n, c, h, w).
        level: offset of each hyperplane, (n,).
        norm: "linf" or "l2".
        low, high: bounds of the coordinates.

    Returns:
        delta, of the shape of points. If no point within the bounds is on the hyperplane, delta goes as far as the
        bounds allow.
    """
    w, flat = normal.flatten(1), points.flatten(-3)
    gap = (level - (w * flat).sum(-1))[..., None]
    weight, distance = w.abs(), gap.abs()
    direction = torch.sign(w) * torch.sign(gap)
    room = (flat - (high + low) / 2).mul_(direction).neg_().add_((high - low) / 2)
    gain, reach = weight * weight if norm == "l2" else weight, weight * room
    scale = (distance / gain.sum(-1, keepdim=True)).nan_to_num_(nan=torch.inf, posinf=torch.inf)
    looks = scale.device.type == "cpu"
    mask, product = torch.empty_like(room), torch.empty_like(room)  # floats in reused memory: bools are slow
    for _ in range(_ROUNDS if looks else _ROUNDS_WITHOUT_LOOKS[norm]):
        moved = torch.mul(weight, scale, out=product) if norm == "l2" else scale
        slope = torch.mul(torch.gt(room, moved, out=mask), gain, out=product).sum(-1, keepdim=True)
        held = torch.addcmul(reach, mask, reach, value=-1, out=product).sum(-1, keepdim=True)
        # Rounding must not make it oscillate. Without a slope there is no solution, and the division gives no number.
        solved = torch.fmax((distance - held).div_(slope), scale)
        # A converged row no longer changes, so it does not depend on the rest of the batch.
        converged, scale = looks and torch.equal(solved, scale), solved
        if converged:
            break
    moved = torch.nan_to_num(weight * scale, nan=0.0) if norm == "l2" else scale
    return torch.minimum(moved, room).mul_(direction).view_as(points)
