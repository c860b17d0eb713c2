"""The loop around attacks: keeps the batch full, verifies, and counts the cost of each row.

A row is one sample under one attack. Active rows are asked together, in chunks of the static batch size (or of a
smaller one that gives the same bits); rows that end leave between iterations and waiting ones take their place. What is
found for a sample depends on the sample alone: not on other rows, its position, how many rows are active or on how
many cores.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from advdpnp.attacks.engine.executor import check_inputs, evaluation_mode
from advdpnp.attacks.engine.precision import FLOAT32
from advdpnp.attacks.engine.processes import can_fork, run_in_processes
from advdpnp.attacks.engine.replicas import ModelReplicas, replicate
from advdpnp.attacks.engine.scheduler import Scheduler
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.protocol import Attack, check_norm
from advdpnp.attacks.rows import Batch, non_empty
from advdpnp.attacks.search_state import AttackResult
from advdpnp.base.randomness import seed_of

_LEAST_SHARE = 8  # fewest samples per process
_COMPARED = 8  # samples on whose first queries the model's faster copy is compared with the model


def search(
    model: nn.Module,
    attack: Attack | AttackEnsemble,
    x: Tensor,
    y: Tensor,
    sample: Tensor,
    *,
    seed: int,
    static_batch_size: int,
    max_active: int | None = None,
    device: torch.device | str = "cpu",
    randomised: bool = False,
    precision: str = FLOAT32,
    on_copy_differs: Callable[[], None] | None = None,
) -> Iterator[AttackResult]:
    """Attack images and yield what was found as rows end; every sample exactly once, in any order.

    Args:
        model: on ``device``; in any mode, which is restored when the iterator ends or is closed.
        x: float32 images in [0, 1], (n, c, h, w); any device, any memory format.
        y: labels, int64 (n,).
        sample: what the samples are called, int64 (n,); their randomness comes from it, ``seed`` and the attack's name.
        static_batch_size: rows of every model call; part of the result.
        max_active: most rows in work at once; changes speed and memory, never the result. Default: what keeps all
            cores busy.
        randomised: the model is; the majority of 20 forwards decides.
        precision: "32", or "tf32" or "bf16" for the model that attacks query. A success counts only in float32; a row
            that fails there goes on in float32, and what survives an attack in stages gets its decisive one once more.
        on_copy_differs: called if the faster copy of the model, at the attack's first queries, has other gradients than
            the model; the search then uses the model itself.

    Raises:
        AdvdpnpError: the attack does not declare the norm of its threat model; unusable images, labels or logits.
    """
    check_norm(attack)
    check_inputs(x, y)
    noise = seed_of(seed, "noise", attack.name) if randomised else None
    samples = Batch(x.detach().float().contiguous(), y.long(), sample.long())
    stages = attack.stages if isinstance(attack, AttackEnsemble) else (attack,)
    again = [stage for stage in stages if isinstance(attack, AttackEnsemble) and stage.name == attack.decisive]
    parts = [*((stage, precision) for stage in stages), *((stage, FLOAT32) for stage in again if precision != FLOAT32)]
    count = _processes(len(x), device) if noise is None else 1
    with evaluation_mode(model), ExitStack() as stack:

        def schedulers(copied: bool) -> list[Scheduler]:
            def open_replicas(kind: str) -> ModelReplicas:
                opened = replicate(
                    model, static_batch_size, device, example=samples.x[:static_batch_size], seed=noise,
                    precision=kind, count=1 if count > 1 else None, copied=copied,
                )  # fmt: skip
                return stack.enter_context(opened)

            return _schedulers(parts, open_replicas, seed, None if max_active is None else -(-max_active // count))

        searches = schedulers(copied=True)
        if not all(each.copy_agrees(samples[:_COMPARED]) for each in searches):
            searches = schedulers(copied=False)
            if on_copy_differs is not None:
                on_copy_differs()

        def share(place: int) -> Iterator[AttackResult]:
            return _overlapped(searches, samples[place::count])

        yield from share(0) if count == 1 else run_in_processes(share, count)


def _schedulers(
    parts: Sequence[tuple[Attack, str]],
    open_replicas: Callable[[str], ModelReplicas],
    seed: int,
    max_active: int | None,
) -> list[Scheduler]:
    """One for each stage and its precision; stages of one precision share the replicas."""
    replicas = cache(open_replicas)

    def start(stage: Attack, kind: str) -> Scheduler:
        exact = None if kind == FLOAT32 else start(stage, FLOAT32)
        return Scheduler(stage, replicas(kind), seed, max_active, exact)

    return [start(*part) for part in parts]


def _processes(rows: int, device: torch.device | str) -> int:
    """How many processes share the rows: as many as torch has threads, on a CPU."""
    if torch.device(device).type != "cpu" or not can_fork():
        return 1
    return max(1, min(torch.get_num_threads(), rows // _LEAST_SHARE))


def _overlapped(parts: list[Scheduler], samples: Batch) -> Iterator[AttackResult]:
    """All stages at once: the last one that can fill a batch goes on, else the first that has anything to do."""
    place = {int(name): index for index, name in enumerate(samples.sample)}
    forwards, backwards, refused = torch.zeros(3, len(samples), dtype=torch.int64)
    zero_gradient = torch.zeros(len(samples), dtype=torch.bool)
    following: dict[Scheduler, Scheduler | None] = {}
    numbers: dict[Scheduler, int] = {}  # a stage that comes again keeps its number
    names = [part.attack.name for part in parts]
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        following |= {each: after for each in (part, part.exact) if each is not None}
        numbers |= {each: names.index(part.attack.name) for each in (part, part.exact) if each is not None}
    parts[0].feed(samples)
    while any(search.busy for search in following):
        full = [search for search in following if search.full]
        now = full[-1] if full else next(search for search in following if search.busy)
        after = following[now]
        for found in now.step():
            index = torch.tensor([place[int(name)] for name in found.sample])
            forwards[index] += found.forwards
            backwards[index] += found.backwards
            zero_gradient[index] |= found.zero_gradient
            refused[index] += found.refused
            so_far = {
                "forwards": forwards[index],
                "backwards": backwards[index],
                "zero_gradient": zero_gradient[index],
                "refused": refused[index],
                "stage": torch.full_like(index, numbers[now]),
            }
            goes_on = torch.zeros_like(found.success) if after is None else ~found.success
            yield from non_empty(replace(found, **so_far)[~goes_on])
            if after is not None and bool(goes_on.any()):
                after.feed(samples[index[goes_on]])
