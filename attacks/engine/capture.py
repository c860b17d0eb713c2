"""Iterations as graphs: an accelerator repeats what it did once, and the host launches one graph for all its kernels.

An iteration has fixed shapes and waits for nothing, so it can be captured. The rows lie in buffers of their own; a
graph reads them there and leaves the next rows in the same place. The first replay of every graph must give the rows of
the plain path. Where capture fails, for instance because a net reads a value of the device, everything runs plainly.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from advdpnp.attacks.rows import Rows
from advdpnp.base.errors import first_line

PLAIN = 8
"""Iterations of rows of the same shapes before a graph is made. Short attacks end before it would pay."""

R = TypeVar("R", bound=Rows)
T = TypeVar("T")


class Graphs(Protocol):
    """Makes the graphs of one device."""

    def warm_up(self, work: Callable[[], T]) -> T:
        """Do what will be recorded, and return its result. It raises if that makes the host wait."""
        ...

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what ``work`` does to the memory of the device; what is returned does it again."""
        ...


class CudaGraphs:
    """CUDA graphs (HIP graphs under ROCm), all in one pool of memory, as none runs at the same time as another."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def warm_up(self, work: Callable[[], T]) -> T:
        with torch.cuda.device(self._device), _waits_are_errors():
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                result = work()
            torch.cuda.current_stream().wait_stream(self._stream)
        torch.cuda.synchronize(self._device)
        return result

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                torch.cuda.device(self._device),
                torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"),
            ):
                work()
        except BaseException:
            graph.reset()  # ends what a capture that failed leaves open
            raise
        return partial(self._replay, graph)

    def _replay(self, graph: torch.cuda.CUDAGraph) -> None:
        with torch.cuda.device(self._device):
            graph.replay()


@contextmanager
def _waits_are_errors() -> Iterator[None]:
    """A capture that fails may leave torch's generators and its allocator in disorder, so waits are found before it."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this a prototype that does not find every wait
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


GRAPHS: dict[str, Callable[[torch.device], Graphs]] = {"cuda": CudaGraphs}
"""By type of device."""


class Capture:
    """Runs iterations of rows, as graphs once that can pay.

    Args:
        device: of the rows.
        allowed: whether graphs may be used. What is captured must be a function of tensors alone.
    """

    def __init__(self, device: torch.device, *, allowed: bool) -> None:
        self._device, self._allowed = device, allowed and device.type in GRAPHS
        self._graphs: Graphs | None = None
        self._plain = Counter[Hashable]()
        self._recordings: dict[Hashable, _Recording[Any]] = {}
        self._buffers: dict[Hashable, list[Tensor]] = {}

    def run(self, step: Callable[[R, bool], R], owner: Hashable, rows: R, gradients: Sequence[bool]) -> R:
        """Iterate.

        Args:
            step: one iteration of rows, with or without a gradient.
            owner: whose iteration it is. Another owner's ``step`` does something else.
            rows: not changed.
            gradients: for each iteration, whether it is one with a gradient.
        """
        if self._allowed:
            key = (owner, *((tensor.shape, tensor.dtype) for tensor in rows.tensors()))
            if self._plain[key] >= PLAIN:
                try:
                    return self._recording(key, step, rows).run(rows, gradients)  # type: ignore[no-any-return]
                except Exception as error:  # whatever the driver, the net or the attack raises: the plain path decides
                    self._allowed, self._graphs = False, None
                    self._recordings.clear()
                    self._buffers.clear()
                    _say(first_line(error))
            self._plain[key] += len(gradients)
        for with_gradient in gradients:
            rows = step(rows, with_gradient)
        return rows

    def _recording(self, key: Hashable, step: Callable[[R, bool], R], rows: R) -> "_Recording[Any]":
        if self._graphs is None:
            self._graphs = GRAPHS[self._device.type](self._device)
        if key not in self._recordings:
            self._recordings[key] = _Recording(self._graphs, step, self._memory_of(rows))
        return self._recordings[key]

    def _memory_of(self, rows: R) -> R:
        """A buffer for each tensor, even where several are one.

        Recordings share them: one is loaded before it runs, and emptied before another does.
        """
        taken = Counter[Hashable]()

        def buffer(tensor: Tensor) -> Tensor:
            kind = (tensor.shape, tensor.stride(), tensor.dtype)
            alike = self._buffers.setdefault(kind, [])
            taken[kind] += 1
            if len(alike) < taken[kind]:
                alike.append(torch.empty_like(tensor))
            return alike[taken[kind] - 1]

        return rows.map(buffer)


@cache
def _say(reason: str) -> None:
    """Once for each reason in a process."""
    logging.getLogger(__name__).warning("searches run without graphs of the device, which is slower: %s", reason)


class _Recording(Generic[R]):
    """The buffers of rows of the same shapes, and the graphs that work on them."""

    def __init__(self, graphs: Graphs, step: Callable[[R, bool], R], buffers: R) -> None:
        self._make, self._step, self._rows = graphs, step, buffers
        self._replays: dict[bool, Callable[[], None]] = {}

    def run(self, rows: R, gradients: Sequence[bool]) -> R:
        self._load(rows)
        for with_gradient in gradients:
            if with_gradient in self._replays:
                self._replays[with_gradient]()
            else:
                self._replays[with_gradient] = self._recorded(with_gradient)
        return self._rows.map(torch.clone)

    def _recorded(self, with_gradient: bool) -> Callable[[], None]:
        """Record an iteration, do it, and compare with the plain path."""
        before = self._rows.map(torch.clone)
        expected = self._make.warm_up(lambda: self._step(before.map(torch.clone), with_gradient))
        replay = self._make.record(lambda: self._advance(with_gradient))
        self._load(before)
        replay()
        pairs = zip(self._rows.tensors(), expected.tensors(), strict=True)
        if not bool(torch.stack([_same(found, plain) for found, plain in pairs]).all()):
            raise RuntimeError("a replay gives other values than the iteration itself")
        return replay

    def _advance(self, with_gradient: bool) -> None:
        """One iteration from the buffers to the buffers."""
        buffers, after = self._rows.tensors(), self._step(self._rows, with_gradient).tensors()
        moved = [(buffer, value) for buffer, value in zip(buffers, after, strict=True) if value is not buffer]
        if any(buffer.shape != value.shape or buffer.dtype != value.dtype for buffer, value in moved):
            raise RuntimeError("an iteration changes the shape or the type of its rows")
        values = [value.clone() for _, value in moved]  # first all: a value may be a view of another buffer
        for (buffer, _), value in zip(moved, values, strict=True):
            buffer.copy_(value)

    def _load(self, rows: R) -> None:
        for buffer, value in zip(self._rows.tensors(), rows.tensors(), strict=True):
            buffer.copy_(value)


def _same(a: Tensor, b: Tensor) -> Tensor:
    """Whether two tensors of one shape have equal values, bool (); numbers that are none are equal."""
    return ((a == b) | (a.isnan() & b.isnan())).all()
