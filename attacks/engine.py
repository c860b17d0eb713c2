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
from advdpnp.attacks.workers import can_fork, side_by_side
from advdpnp.randomness import seed_of

_LEAST_SHARE = 8  # samples for which a process is worth its while


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
    samples = Unseen(x.detach().float().contiguous(), y.long(), sample.long())
    stages = attack.stages if isinstance(attack, Stages) else (attack,)
    count = _processes(len(x), device) if noise is None else 1
    with evaluation_mode(model), ExitStack() as stack:
        lanes: dict[Attack | None, Lanes] = {}  # of stages that look inside, and (None) what all others share
        for stage in stages:
            inside = stage if isinstance(stage, LooksInside) else None
            if inside not in lanes:
                opened = open_lanes(
                    model, shape, device, example=samples.x[:shape], look=inside.look if inside else None, seed=noise,
                    count=1 if count > 1 else None,
                )  # fmt: skip
                lanes[inside] = stack.enter_context(opened)

        def share(place: int) -> Iterator[Findings]:
            of_each = [lanes[stage if isinstance(stage, LooksInside) else None] for stage in stages]
            in_flight = None if rows is None else -(-rows // count)
            searches = [StageSearch(*each, seed, in_flight) for each in zip(stages, of_each, strict=True)]
            yield from _overlapped(searches, samples[place::count])

        yield from share(0) if count == 1 else side_by_side(share, count)


def _processes(rows: int, device: torch.device | str) -> int:
    """How many processes share the rows: as many as torch has threads, on a CPU."""
    if torch.device(device).type != "cpu" or not can_fork():
        return 1
    return max(1, min(torch.get_num_threads(), rows // _LEAST_SHARE))


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
