"""Which classes a targeted attack aims at."""

import torch
from torch import Tensor


def likely_targets(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The ``count`` classes other than the own that the clean image's logits rank highest, int64 (n, count).

    The order of AutoAttack's targeted stages (Croce and Hein 2020, section 4): the likeliest mistake first.
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    ranked: Tensor = others.sort(dim=1, descending=True, stable=True).indices
    return ranked[:, :count]


def target_of(targets: Tensor, run: Tensor) -> Tensor:
    """The class that each row aims at in its run: targets (n, runs), run (n,)."""
    return targets.gather(1, run.clamp(max=targets.shape[1] - 1)[:, None])[:, 0]
