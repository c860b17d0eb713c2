"""Replicas of a model that compute chunks of a batch in parallel: a thread, a copy and one core each.

One core per chunk is faster than all cores on one chunk, because the tensors of an attack are small. No chunk is spread
over cores, so results do not depend on their number. A search uses processes instead of threads where it can (see
``processes``); verification, which is all convolutions, is as fast with threads.

Every chunk has the same size, as results may differ in the last bits between batch sizes. Smaller sizes serve where
there are fewer rows, but only those that were measured to give the same bits.
"""

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from advdpnp.attacks.engine.executor import Executor, single_threaded
from advdpnp.attacks.engine.precision import FLOAT32
from advdpnp.attacks.rows import Rows
from advdpnp.attacks.search_copy.make import make_search_copy
from advdpnp.base.allocator import keep_freed_memory

_SMALLEST_BATCH, _STEPS = 4, 16  # sizes are multiples of the larger of 4 and a 16th of the full size
_TRIED = 8  # images on which a faster copy is tested
_CALLS, _SHARE = 3, 0.1  # model calls that one trial takes, and the share of all computed rows that trials may take

R = TypeVar("R", bound=Rows)
S = TypeVar("S", bound=Rows)


class ModelReplicas:
    """Executors of one model.

    Attributes:
        static_batch_size: rows of a full chunk.
        width: rows that keep all replicas busy.
    """

    def __init__(
        self, executors: list[Executor], pool: ThreadPoolExecutor | None, trial: "BatchSizeTrial | None"
    ) -> None:
        self._executors, self._pool, self._trial = executors, pool, trial
        self.first = executors[0]
        self.static_batch_size, self.device = self.first.static_batch_size, self.first.device
        self.width = self.static_batch_size * len(executors)

    def chunk_size(self, rows: int) -> int:
        """Rows per chunk for so many rows: the smallest size by which all replicas get work."""
        each = -(-rows // len(self._executors))
        size = self.static_batch_size if self._trial is None else self._trial.smallest(each)
        for executor in self._executors:
            executor.batch_sizes.add(size)
        return size

    def forwards_agree(self) -> bool:
        """Whether a forward without gradients gives the same bits as one with; where nothing was tried, no."""
        return self._trial is not None and self._trial.forwards_agree

    def padded_size(self, rows: int) -> int:
        """Rows that are computed for so many."""
        size = self.chunk_size(rows)
        return -(-rows // size) * size

    def chunks(self, rows: R) -> tuple[list[R], int]:
        """Rows cut into chunks, the last one not padded; and the size to pad it to."""
        size = self.chunk_size(len(rows))
        return [rows[i : i + size] for i in range(0, len(rows), size)], size

    def map(self, function: Callable[[Executor, R], S], rows: R) -> S:
        """Apply a function of the rows of a chunk to any number of them, at least one."""
        chunks, size = self.chunks(rows)
        done = self.map_chunks(function, [chunk.padded(size) for chunk in chunks])
        return type(done[0]).concatenate([each[: len(chunk)] for each, chunk in zip(done, chunks, strict=True)])

    def map_chunks(self, function: Callable[[Executor, R], S], chunks: list[R]) -> list[S]:
        """Apply it to full chunks."""
        if self._trial is not None:
            self._trial.computed += sum(map(len, chunks))
        done: list[S] = []
        for i in range(0, len(chunks), len(self._executors)):
            done += self._side_by_side(function, chunks[i : i + len(self._executors)])
        return done

    def _side_by_side(self, function: Callable[[Executor, R], S], chunks: list[R]) -> list[S]:
        work = [partial(function, *each) for each in zip(self._executors, chunks, strict=False)]
        if self._pool is None:
            return [each() for each in work]
        running = [self._pool.submit(each) for each in work[1:]]
        try:
            return [work[0](), *(each.result() for each in running)]
        finally:
            for each in running:
                each.exception()  # no thread may go on with work that the caller has given up


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
    computed: int = 0,
) -> Iterator[ModelReplicas]:
    """ModelReplicas for a model that is in evaluation mode and on ``device``.

    Args:
        example: images (n, c, h, w) on which a faster copy of the model for attacks is tested; None: no attack runs.
        seed: as ``Executor`` takes it. A randomised model has one replica: its noise depends on the number of the call.
        precision: of the model that attacks query.
        count: of replicas; by default as many as torch has threads on a CPU, and one on any other device.
        computed: rows that count as computed already: trials of smaller batches may cost a tenth of all that is.
        copied: whether attacks may query a faster copy of the model (see ``make_search_copy``).
    """
    keep_freed_memory()
    on_cpu = torch.device(device).type == "cpu"
    wanted = count or (torch.get_num_threads() if on_cpu else 1)
    with single_threaded(on_cpu):
        models = [model, *_copies(model, wanted - 1)] if seed is None else [model]
        executors = []
        for each in models:
            searched = each
            if copied and seed is None and example is not None:
                searched = make_search_copy(each, example[:_TRIED].to(device))
            executors.append(Executor(each, static_batch_size, device, seed, searched, precision))
        smaller = seed is None and on_cpu and example is not None and len(example)
        trial = BatchSizeTrial(executors[0], example, computed) if smaller and example is not None else None
        if len(executors) == 1:
            yield ModelReplicas(executors, None, trial)
            return
        with ThreadPoolExecutor(len(executors) - 1, "replica", lambda: torch.set_num_threads(1)) as pool:
            yield ModelReplicas(executors, pool, trial)


def _copies(model: nn.Module, count: int) -> list[nn.Module]:
    """One for each further thread, as some models store values in forward; none where a copy fails."""
    try:
        return [copy.deepcopy(model) for _ in range(count)]
    except Exception:
        return []


class BatchSizeTrial:
    """Finds out which smaller batch sizes give examples the same bits as the full size.

    Trials cost time: they may take a tenth of what has been computed so far. Sizes not yet tried are not used.

    Attributes:
        computed: rows that models have computed so far.
    """

    def __init__(self, executor: Executor, example: Tensor, computed: int = 0) -> None:
        self._executor = executor
        self._images = example[torch.arange(executor.static_batch_size).clamp(max=len(example) - 1)].contiguous()
        self._step = max(_SMALLEST_BATCH, executor.static_batch_size // _STEPS)
        self._equal: dict[int, bool] = {}
        self._spent = 0
        self.computed = computed

    def smallest(self, rows: int) -> int:
        """The smallest size for so many rows."""
        full, least = self._executor.static_batch_size, -(-max(rows, 1) // self._step) * self._step
        return next((size for size in range(least, full, self._step) if self._same(size)), full)

    def _same(self, size: int) -> bool:
        if size not in self._equal:
            cost = _CALLS * (size if self._equal else size + self._executor.static_batch_size)
            if self._spent + cost > _SHARE * self.computed:
                return False
            self._spent += cost
            answers = _answers(self._executor, self._images[:size])
            self._equal[size] = all(torch.equal(a, b[:size]) for a, b in zip(answers, self._expected, strict=True))
        return self._equal[size]

    @cached_property
    def _expected(self) -> list[Tensor]:
        return _answers(self._executor, self._images)

    @cached_property
    def forwards_agree(self) -> bool:
        """Whether a forward without gradients gives the same bits as one with."""
        alone, together, *_ = self._expected
        return torch.equal(alone, together)


def _answers(executor: Executor, images: Tensor) -> list[Tensor]:
    """All results of the model on images: logits and gradients of a search, logits of verification."""
    with torch.no_grad():
        judged = executor.model(images.clone())
    return [executor.searched_logits(images), *executor.logits_and_gradient(images, _any_objective), judged]


def _any_objective(logits: Tensor) -> Tensor:
    return logits[:, 0] - logits[:, 1:].logsumexp(1)
