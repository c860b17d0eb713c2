"""Replicas of a model that compute chunks of a batch in parallel; each has a thread, a copy of the model and one core.

One core per chunk is faster than all cores on one chunk, because the tensors of an attack are small. A chunk never uses
several cores, so results do not depend on their number. A search uses processes instead of threads if it can (see
``processes``). Verification consists of convolutions and is as fast with threads.

All chunks have the same size, because results can differ in the last bits between batch sizes. Smaller chunks are used
for fewer rows only if a trial has shown that they give the same bits.
"""

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from advdpnp.attacks.engine.executor import Executor
from advdpnp.attacks.engine.precision import FLOAT32, model_to_search
from advdpnp.attacks.rows import Rows
from advdpnp.base.devices import keep_freed_memory, single_threaded

SMALLEST_BATCH = 4
"""Rows that a CPU computes at least; batches are multiples of it."""

_TRIED = 8  # images on which a search copy is tested
_CALLS, _SHARE = 3, 0.1  # model calls per trial, and share of the waste that trials may cost once one has failed

R = TypeVar("R", bound=Rows)
S = TypeVar("S", bound=Rows)


class ModelReplicas:
    """Executors of one model, one per replica.

    Attributes:
        static_batch_size: rows of a full chunk.
        width: rows that keep all replicas busy.
        first: executor of the original model.
        device: device of the model.
    """

    def __init__(
        self, executors: list[Executor], pool: ThreadPoolExecutor | None, trial: "BatchSizeTrial | None"
    ) -> None:
        self._executors, self._pool, self._trial = executors, pool, trial
        self.first = executors[0]
        self.static_batch_size, self.device = self.first.static_batch_size, self.first.device
        self.width = self.static_batch_size * len(executors)

    def chunk_size(self, rows: int) -> int:
        """Chunk size for ``rows`` rows: the smallest one that uses every replica at most once, if possible."""
        each = -(-rows // len(self._executors))
        size = self.static_batch_size if self._trial is None else self._trial.smallest(each)
        for executor in self._executors:
            executor.batch_sizes.add(size)
        return size

    def forwards_agree(self) -> bool:
        """Whether forward passes with and without gradients give the same bits. False without a trial."""
        return self._trial is not None and self._trial.forwards_agree

    def padded_size(self, rows: int) -> int:
        """Number of computed rows for ``rows`` rows, including padding."""
        size = self.chunk_size(rows)
        return -(-rows // size) * size

    def chunks(self, rows: R) -> tuple[list[R], int]:
        """Split rows into chunks. Returns them, the last one not padded, and the chunk size."""
        size = self.chunk_size(len(rows))
        return [rows[i : i + size] for i in range(0, len(rows), size)], size

    def map(self, function: Callable[[Executor, R], S], rows: R) -> S:
        """Apply a function to the rows in chunks and concatenate its results. There must be at least one row."""
        chunks, size = self.chunks(rows)
        results = self.map_chunks(function, [chunk.padded(size) for chunk in chunks])
        trimmed = [result[: len(chunk)] for result, chunk in zip(results, chunks, strict=True)]
        return type(results[0]).concatenate(trimmed)

    def map_chunks(self, function: Callable[[Executor, R], S], chunks: list[R], calls: int = 1) -> list[S]:
        """Apply a function, which calls the model so many times, to chunks that are already padded."""
        if self._trial is not None:
            self._trial.count(calls * sum(map(len, chunks)))
        results: list[S] = []
        for i in range(0, len(chunks), len(self._executors)):
            results += self._parallel(function, chunks[i : i + len(self._executors)])
        return results

    def _parallel(self, function: Callable[[Executor, R], S], chunks: list[R]) -> list[S]:
        work = [partial(function, *each) for each in zip(self._executors, chunks, strict=False)]
        if self._pool is None:
            return [each() for each in work]
        running = [self._pool.submit(each) for each in work[1:]]
        try:
            return [work[0](), *(each.result() for each in running)]
        finally:
            for each in running:
                each.exception()  # wait for all threads, so that none works on after an error


@contextmanager
def replicate(
    model: nn.Module,
    static_batch_size: int,
    device: torch.device | str,
    *,
    example: Tensor | None = None,
    seed: int | None = None,
    precision: str = FLOAT32,
    count: int | None = None,
    copied: bool = True,
    wasted: int = 0,
    unasked: nn.Module | None = None,
) -> Iterator[ModelReplicas]:
    """Create the replicas of a model that is in evaluation mode and on ``device``.

    Args:
        static_batch_size: rows of a full chunk.
        example: images, (n, c, h, w), to test the search copy and smaller batches. None: no attack runs.
        seed: as for ``Executor``. A randomised model has one replica: its noise depends on the number of the call.
        precision: precision of the model that attacks query.
        count: number of replicas. By default, the number of torch threads on a CPU and one on other devices.
        copied: whether attacks may query a search copy of the model (see ``make_search_copy``).
        wasted: rows that count as computed in vain, so that trials may start (see ``BatchSizeTrial``).
        unasked: see ``search``.
    """
    keep_freed_memory()
    on_cpu = torch.device(device).type == "cpu"
    n_replicas = count or (torch.get_num_threads() if on_cpu else 1)
    with single_threaded(on_cpu):
        models = [model, *_copies(model, n_replicas - 1)] if seed is None else [model]
        executors = []
        for each in models:
            searched, arithmetic = each, precision
            if copied and seed is None and example is not None:
                searched, arithmetic = model_to_search(each, example[:_TRIED].to(device), precision)
            executors.append(Executor(each, static_batch_size, device, seed, searched, arithmetic, unasked))
        smaller = seed is None and on_cpu and example is not None and len(example)
        trial = BatchSizeTrial(executors[0], example, wasted) if smaller and example is not None else None
        if len(executors) == 1:
            yield ModelReplicas(executors, None, trial)
            return
        with ThreadPoolExecutor(len(executors) - 1, "replica", lambda: torch.set_num_threads(1)) as pool:
            yield ModelReplicas(executors, pool, trial)


def _copies(model: nn.Module, count: int) -> list[nn.Module]:
    """Copies for the other threads, because some models store values in forward. Empty if copying fails."""
    try:
        return [copy.deepcopy(model) for _ in range(count)]
    except Exception:
        return []


class BatchSizeTrial:
    """Tests which smaller batch sizes give the same bits as the full size on example images.

    Trials may cost no more than what has been wasted because a size was not known, and a tenth of it after a size that
    gave other bits. Untested sizes are not used.
    """

    def __init__(self, executor: Executor, example: Tensor, wasted: int = 0) -> None:
        self._executor = executor
        self._images = example[torch.arange(executor.static_batch_size).clamp(max=len(example) - 1)].contiguous()
        self._equal: dict[int, bool] = {}
        self._spent, self._wasted = 0, float(wasted)
        self._saving = 0.0  # share of the rows that an untested size might save now

    def count(self, rows: int) -> None:
        """Note that models have computed so many rows, in batches of the size that was given last."""
        self._wasted += rows * self._saving

    def smallest(self, rows: int) -> int:
        """The smallest usable size for ``rows`` rows."""
        full, least = self._executor.static_batch_size, -(-max(rows, 1) // SMALLEST_BATCH) * SMALLEST_BATCH
        found = next((size for size in range(least, full, SMALLEST_BATCH) if self._same(size)), full)
        untested = (size for size in range(least, found, SMALLEST_BATCH) if size not in self._equal)
        self._saving = 1 - next(untested, found) / found
        return found

    def _same(self, size: int) -> bool:
        if size not in self._equal:
            cost = _CALLS * (size if self._equal else size + self._executor.static_batch_size)
            share = _SHARE if False in self._equal.values() else 1.0
            if self._spent + cost > share * self._wasted:
                return False
            self._spent += cost
            outputs = _outputs(self._executor, self._images[:size])
            self._equal[size] = all(torch.equal(a, b[:size]) for a, b in zip(outputs, self._expected, strict=True))
        return self._equal[size]

    @cached_property
    def _expected(self) -> list[Tensor]:
        return _outputs(self._executor, self._images)

    @cached_property
    def forwards_agree(self) -> bool:
        """Whether forward passes with and without gradients give the same bits."""
        without_gradient, with_gradient, *_ = self._expected
        return torch.equal(without_gradient, with_gradient)


def _outputs(executor: Executor, images: Tensor) -> list[Tensor]:
    """All outputs of the model on images: logits and gradients of a search, and logits of verification."""
    with torch.no_grad():
        verified = executor.model(images.clone())
    return [executor.searched_logits(images), *executor.logits_and_gradient(images, _trial_loss), verified]


def _trial_loss(logits: Tensor) -> Tensor:
    return logits[:, 0] - logits[:, 1:].logsumexp(1)
