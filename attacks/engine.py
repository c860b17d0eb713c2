"""The loop around asked attacks: keeps the batch full, verifies, and counts what each row costs.

A row is one sample under one attack. Rows in flight are asked together, in chunks of the execution shape (or of smaller
ones that give the same bits); rows that end leave between iterations and waiting ones take their place. What is found
for a sample depends on nothing but the sample: not on its company, its place, how many rows are in flight or on how
many cores.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn

from advdpnp.attacks.contract import Attack, LooksInside
from advdpnp.attacks.execution import check_inputs, evaluation_mode
from advdpnp.attacks.flight import Findings, Unseen, some
from advdpnp.attacks.lanes import Lanes, open_lanes
from advdpnp.attacks.stage_search import StageSearch
from advdpnp.attacks.stages import Stages
from advdpnp.randomness import seed_of


def search(
    model: nn.Module,
    attack: Attack | Stages,
    x: Tensor,
    y: Tensor,
    sample: Tensor,
    *,
    seed: int,
    shape: int,
    rows: int | None = None,
    device: torch.device | str = "cpu",
    randomised: bool = False,
) -> Iterator[Findings]:
    """Attack images and yield what was found as rows end; every sample exactly once, in any order.

    Args:
        model: on ``device``; in any mode, which is restored when the iterator ends or is closed.
        x: float32 images in [0, 1], (n, c, h, w); any device, any memory format.
        y: labels, int64 (n,).
        sample: what the samples are called, int64 (n,); their randomness comes from it, ``seed`` and the attack's name.
        shape: rows of every model call; part of the result.
        rows: most rows in flight; changes speed and memory, never the result. Default: what keeps all cores busy.
        randomised: the model is; the majority of 20 forwards decides.

    Raises:
        AdvdpnpError: unusable images, labels or logits.
    """
    check_inputs(x, y)
    noise = seed_of(seed, "noise", attack.name) if randomised else None
    images = x.detach().float().contiguous()
    stages = attack.stages if isinstance(attack, Stages) else (attack,)
    with evaluation_mode(model), ExitStack() as stack:
        lanes: dict[Attack | None, Lanes] = {}  # of stages that look inside, and (None) what all others share
        searches = []
        for stage in stages:
            inside = stage if isinstance(stage, LooksInside) else None
            if inside not in lanes:
                look = inside.look if inside else None
                opened = open_lanes(model, shape, device, example=images[:shape], look=look, seed=noise)
                lanes[inside] = stack.enter_context(opened)
            searches.append(StageSearch(stage, lanes[inside], seed, rows))
        yield from _overlapped(searches, Unseen(images, y.long(), sample.long()))


def _overlapped(searches: list[StageSearch], samples: Unseen) -> Iterator[Findings]:
    """All stages at once: the last one that can fill a batch goes on, else the first that has anything to do."""
    place = {int(name): index for index, name in enumerate(samples.sample)}
    forwards, backwards = torch.zeros(2, len(samples), dtype=torch.int64)
    zero_gradient = torch.zeros(len(samples), dtype=torch.bool)
    searches[0].feed(samples)
    while any(search.busy for search in searches):
        full = [search for search in searches if search.full]
        now = full[-1] if full else next(search for search in searches if search.busy)
        following = searches[searches.index(now) + 1 :]
        for found in now.advance():
            index = torch.tensor([place[int(name)] for name in found.sample])
            forwards[index] += found.forwards
            backwards[index] += found.backwards
            zero_gradient[index] |= found.zero_gradient
            costs = {"forwards": forwards[index], "backwards": backwards[index], "zero_gradient": zero_gradient[index]}
            goes_on = ~found.success if following else torch.zeros_like(found.success)
            yield from some(replace(found, **costs)[~goes_on])
            if bool(goes_on.any()):
                following[0].feed(samples[index[goes_on]])
