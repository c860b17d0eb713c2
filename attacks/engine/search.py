"""The search: runs an attack or an ensemble on samples and returns verified results.

A row is one sample under one attack. Active rows are evaluated together, in chunks of the static batch size or of a
smaller size that gives the same bits. Finished rows leave between iterations, and waiting rows take their place. The
result of a sample depends on that sample alone: not on other rows, the order, the number of active rows or the cores.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from advdpnp.attacks.engine.executor import check_inputs, evaluation_mode
from advdpnp.attacks.engine.precision import FLOAT32, search_precision
from advdpnp.attacks.engine.processes import can_fork, run_in_processes
from advdpnp.attacks.engine.replicas import SMALLEST_BATCH, replicate
from advdpnp.attacks.engine.scheduler import Scheduler
from advdpnp.attacks.engine.status import Heartbeat, SearchStatus, tell_status
from advdpnp.attacks.engine.verification import REPEATS, price_of_a_step, repeats
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.protocol import Attack, PackageAttack, check_norm
from advdpnp.attacks.rows import Batch, non_empty
from advdpnp.attacks.search_state import AttackResult
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import seed_of

_COMPARED = 8  # samples whose first queries are used to compare the search copy with the model


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
    budget: int | None = None,
    unasked: nn.Module | None = None,
    on_copy_differs: Callable[[], None] = lambda: None,
    on_status: Callable[[SearchStatus], None] | None = None,
) -> Iterator[AttackResult]:
    """Attack images and yield results as rows finish: every sample exactly once, in any order.

    Args:
        model: maps images to logits (n, classes); on ``device``. Its mode is restored when the iterator ends or closes.
        attack: attack or ensemble to run.
        x: float32 images in [0, 1], (n, c, h, w); on any device, in any memory format.
        y, sample: labels and indices in the data set, int64 (n,). Random numbers depend on index, seed and attack.
        static_batch_size: rows of every model call. Results depend on it in the last bits.
        max_active: largest number of active rows; no effect on results. The default keeps all cores busy.
        seed, device: of the search.
        randomised: whether the model is randomised. If so, the majority of 20 forward passes decides.
        precision: "32", "tf32" or "bf16" for the model that attacks query (minimum-norm attacks: always "32"). Rows
            that survive but came near are searched again in float32, in an ensemble by its decisive stage.
        budget: most forwards and backwards of an image, in all stages together; what they do not break is not broken.
        unasked: a copy of the model from before its first call, which decides too (see ``judge_twice``).
        on_copy_differs: called if the search copy disagrees with the model on the first queries and is not used.
        on_status: called about once a second with how far the search is. It changes no result.

    Raises:
        AdvdpnpError: an unsupported norm, invalid images, labels or logits, or a budget that leaves no search.
    """
    _check(attack, x, y, budget, randomised, precision)
    noise = seed_of(seed, "noise", attack.name) if randomised else None
    samples = Batch(x.detach().float().contiguous(), y.long(), sample.long())
    count, example = _processes(len(x), device) if noise is None else 1, samples.x[:static_batch_size]
    alone, width = 1 if count > 1 else None, max_active and -(-max_active // count)
    opened = partial(replicate, model, static_batch_size, device, example=example, seed=noise, unasked=unasked)
    with evaluation_mode(model), ExitStack() as stack:

        def schedulers(copied: bool) -> list[Scheduler]:
            replicas = cache(lambda kind: stack.enter_context(opened(precision=kind, copied=copied, count=alone)))
            parts = _parts(attack, search_precision(attack, precision))
            return [Scheduler(each, replicas(kind), seed, width, budget, low=kind != FLOAT32) for each, kind in parts]

        searches = _agreeing(schedulers, samples[:_COMPARED], on_copy_differs)

        def share(number: int) -> Generator[AttackResult | tuple[int, SearchStatus], None, None]:
            for item in _overlapped(searches, samples[number::count], with_status=on_status is not None):
                yield (number, item) if isinstance(item, SearchStatus) else item

        with closing(share(0) if count == 1 else run_in_processes(share, count)) as found:  # ends before its copies do
            yield from tell_status(found, on_status or (lambda status: None))


def _agreeing(
    make: Callable[[bool], list[Scheduler]], few: Batch, on_copy_differs: Callable[[], None]
) -> list[Scheduler]:
    """Schedulers on the search copy of the model, or on the model itself if the copy differs on a ``few`` samples."""
    searches = make(True)
    if all(each.copy_agrees(few) for each in searches):
        return searches
    on_copy_differs()
    return make(False)


def check_budget(budget: int | None, randomised: bool = False, low: bool = False) -> None:
    """Check that a budget allows a look at the clean image and one step.

    Raises:
        AdvdpnpError: it does not.
    """
    least = price_of_a_step(REPEATS if randomised else 1, low)
    if budget is not None and budget < least:
        raise AdvdpnpError(f"a budget of {budget} passes for each image leaves no search; give {least} or more")


def _check(attack: Any, x: Tensor, y: Tensor, budget: int | None, randomised: bool, precision: str) -> None:
    if isinstance(attack, PackageAttack):
        raise AdvdpnpError(f"search runs attacks of ask and tell; run '{attack.name}' by advdpnp.attack or its own run")
    check_norm(attack)
    check_budget(budget, randomised, search_precision(attack, precision) != FLOAT32)
    check_inputs(x, y)


def _parts(attack: Attack | AttackEnsemble, precision: str) -> list[tuple[Attack, str]]:
    """Stages with their precision. What decides runs again in float32 after a search in lower precision."""
    if not isinstance(attack, AttackEnsemble):
        return [(attack, precision)] if precision == FLOAT32 else [(attack, precision), (attack, FLOAT32)]
    again = [stage for stage in attack.stages if stage.name == attack.decisive and precision != FLOAT32]
    return [*((stage, precision) for stage in attack.stages), *((stage, FLOAT32) for stage in again)]


def _processes(rows: int, device: torch.device | str) -> int:
    """Number of processes: on a CPU at most one per torch thread, each with the rows of a batch; one elsewhere."""
    if torch.device(device).type != "cpu" or not can_fork():
        return 1
    return max(1, min(torch.get_num_threads(), rows // SMALLEST_BATCH))


def _overlapped(
    parts: list[Scheduler], samples: Batch, with_status: bool = False
) -> Iterator[AttackResult | SearchStatus]:
    """Run all stages interleaved. The last stage with a full batch goes first; without one, the first with any rows."""
    positions = {int(number): index for index, number in enumerate(samples.sample)}
    forwards, backwards, refused = torch.zeros(3, len(samples), dtype=torch.int64)
    zero_gradient, near = torch.zeros(2, len(samples), dtype=torch.bool)
    following = dict(zip(parts, [*parts[1:], None], strict=True))
    names = [part.attack.name for part in parts]
    heartbeat = Heartbeat()
    parts[0].feed(samples)
    while any(search.busy for search in following):
        if with_status and heartbeat.due():
            yield SearchStatus.of(parts, finished=int((forwards + backwards).sum()))
        full = [search for search in following if search.full]
        now = full[-1] if full else next(search for search in following if search.busy)
        after = following[now]
        for result in now.step():
            index = torch.tensor([positions[int(number)] for number in result.sample])
            forwards[index] += result.forwards
            backwards[index] += result.backwards
            zero_gradient[index] |= result.zero_gradient
            refused[index] += result.refused
            near[index] |= torch.tensor([int(number) in now.near for number in result.sample])
            totals = {
                "forwards": forwards[index],
                "backwards": backwards[index],
                "zero_gradient": zero_gradient[index],
                "refused": refused[index],
                "stage": torch.full_like(index, names.index(now.attack.name)),  # also if repeated
            }
            continues = torch.zeros_like(result.success) if after is None else ~result.success
            if after is not None and now.low and not after.low:
                continues &= near[index]
            spent = totals["forwards"] + totals["backwards"]
            if now.budget is not None:
                low = after is not None and after.low
                continues &= spent + price_of_a_step(repeats(now.replicas.first), low) <= now.budget
            yield from non_empty(replace(result, **totals)[~continues])
            if after is not None and bool(continues.any()):
                after.feed(samples[index[continues]], spent[continues])
    if with_status:
        yield SearchStatus.of(parts, finished=int((forwards + backwards).sum()))
