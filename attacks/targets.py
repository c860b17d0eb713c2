"""Target classes of targeted attacks."""

import torch
from torch import Tensor


def likely_targets(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The ``count`` classes with the largest clean logits, without the label, largest first, int64 (n, count).

    AutoAttack uses these targets (Croce and Hein 2020, section 4). There are at most classes - 1 of them.
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    ranked: Tensor = others.sort(dim=1, descending=True, stable=True).indices
    return ranked[:, :count]


def target_of(targets: Tensor, run: Tensor) -> Tensor:
    """Target class of each row in its current run, int64 (n,); ``targets`` is (n, runs) and ``run`` (n,)."""
    return targets.gather(1, run.clamp(max=targets.shape[1] - 1)[:, None])[:, 0]
