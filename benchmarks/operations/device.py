"""A simulated accelerator: it computes on the CPU, refuses to mix devices, and counts launches and waits.

A tensor on the device "sim" wraps one on the CPU, under the key that PyTorch keeps for backends written in Python. So
what runs there gives the bits of the CPU, and without a GPU one can see

- operations whose tensors are on different devices: they raise, as on a GPU;
- launches: operations that start a kernel. Views and allocations start none;
- waits: places where the host needs a value of the device before it can go on (``item``, ``bool``, ``nonzero``, masks
  as indices, copies to the host), or where the device waits for memory of the host (copies from it);
- work that a graph cannot capture: a wait, or memory of the host, inside of ``capturing()``.

It knows nothing of time, memory or streams.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "sim"
T = TypeVar("T")
_PROJECT = ("/attacks/", "/eval/", "/corruption/", "/advdpnp/")
_READ_BY_THE_HOST = frozenset(
    f"aten::{name}"
    for name in (
        "_local_scalar_dense", "is_nonzero", "item", "equal", "nonzero", "masked_select", "bincount", "histc",
        "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave",
    )
)  # fmt: skip
"""Operations whose result, or its shape, the host needs."""

_INDEXING = frozenset(f"aten::{name}" for name in ("index", "index_put", "index_put_", "_index_put_impl_"))
_COPIES = frozenset({"aten::_to_copy", "aten::copy_"})


@dataclass
class Counts:
    """What happened on the device since the last reset.

    Attributes:
        launches: kernels by operator.
        views: operators that launch nothing.
        waits: waits by kind and by the line of this project that made them.
    """

    launches: Counter[str] = field(default_factory=Counter)
    views: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)


class CaptureError(RuntimeError):
    """Work that a graph cannot capture."""


class SimulatedDevice(TorchDispatchMode):
    """The device, while the context is open: ``with SimulatedDevice() as sim: model.to(sim.device)``."""

    def __init__(self) -> None:
        super().__init__()
        register()
        self.device = torch.device(NAME, 0)
        self.counts = Counts()
        self._capturing = False
        self._tape: list[_Step] | None = None

    def __enter__(self) -> Self:
        _OPEN.append(self)
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        _OPEN.remove(self)
        super().__exit__(*error)

    def reset(self) -> Counts:
        """Start counting anew. Returns the counts so far."""
        counts, self.counts = self.counts, Counts()
        return counts

    def warm_up(self, work: Callable[[], T]) -> T:
        """Do ``work`` and refuse what a graph cannot capture."""
        with self.capturing():
            return work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the operators of ``work``, which it also does. What is returned does them again on the same memory.

        As in a graph, nothing but the device takes part in a replay: no Python, and no value of the host that changes.
        """
        tape = self._tape = []
        try:
            self.warm_up(work)
        finally:
            self._tape = None

        def replay() -> None:
            for func, args, kwargs, result in tape:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old is not new:  # not in place
                        old.copy_(new)

        return replay

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Refuse what a graph cannot capture."""
        self._capturing = True
        try:
            yield
        finally:
            self._capturing = False

    def waits(self, kind: str) -> None:
        """Count a wait of the host, or refuse it while capturing."""
        place = _place()
        if self._capturing:
            raise CaptureError(f"{kind} inside of a captured graph: {place}")
        self.counts.waits[f"{kind}: {place}"] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, dict(kwargs or {}))

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operator of ATen."""
        name, tensors = func._schema.name, [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here = [tensor for tensor in tensors if isinstance(tensor, SimulatedTensor)]
        made_here = _is_here(kwargs["device"]) if kwargs.get("device") is not None else bool(here)
        if not here and not made_here:
            return func(*args, **kwargs)
        (self.counts.views if launches_nothing(func) else self.counts.launches)[name.removeprefix("aten::")] += 1
        if name in _COPIES:
            return self._copy(name, func, args, kwargs, made_here)
        if name in _INDEXING:
            self._check_indices(name, args)
        elif any(tensor.dim() for tensor in tensors if not isinstance(tensor, SimulatedTensor)):
            raise RuntimeError(f"expected all tensors on one device, but {name} got {NAME} and cpu: {_place()}")
        if name in _READ_BY_THE_HOST and here:
            self.waits(name.removeprefix("aten::"))
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        result = self.compute(func, args, kwargs)
        if not made_here:
            return result
        given = {id(tensor.inner): tensor for tensor in here}  # operators in place return the tensor they were given
        return tree_map(lambda value: given[id(value)] if id(value) in given else _wrapped(value), result)

    def compute(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """What an operator gives, of tensors on the CPU."""
        args, kwargs = tree_map(_unwrapped, args), tree_map(_unwrapped, kwargs)
        result = func(*args, **kwargs)
        if self._tape is not None and not launches_nothing(func):
            self._tape.append((func, args, kwargs, result))
        return result

    def _copy(self, name: str, func: Any, args: Any, kwargs: dict[str, Any], to_here: bool) -> Any:
        target, source = (args[0], args[1]) if name == "aten::copy_" else (None, args[0])
        to_here = isinstance(target, SimulatedTensor) if target is not None else to_here
        from_here = isinstance(source, SimulatedTensor)
        if from_here != to_here:
            self.waits("copy from the host" if to_here else "copy to the host")
        if target is not None:
            self.compute(func, (target, source, *args[2:]), {})
            return target
        kwargs = {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking", "pin_memory")}
        copied = self.compute(func, (source,), kwargs)
        return _wrapped(copied) if to_here else copied

    def _check_indices(self, name: str, args: Any) -> None:
        indices = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)]
        if not isinstance(args[0], SimulatedTensor):
            raise RuntimeError(f"indices should be on the device of the indexed tensor, which is cpu: {_place()}")
        if any(not isinstance(index, SimulatedTensor) and index.dim() for index in indices):
            self.waits("index on the host")
        masks = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        fills = name != "aten::index" and args[2].numel() == 1  # a fill, which launches one kernel
        if masks and not fills:
            self.waits("mask as an index")


class SimulatedTensor(Tensor):
    """A tensor on the simulated device; ``inner`` has its values, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "SimulatedTensor":
        made: SimulatedTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    def __init__(self, inner: Tensor) -> None:
        """The tensor is made in ``__new__``."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _current().run(func, args, dict(kwargs or {}))

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.inner!r} on {NAME}"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return memo.setdefault(id(self), self.detach().clone().requires_grad_(self.requires_grad))

    def tolist(self) -> Any:
        _current().waits("tolist")
        return self.inner.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert a tensor on {NAME} to numpy; use .cpu() first")


@cache
def launches_nothing(func: Any) -> bool:
    """Whether an operator only makes a view, or allocates."""
    name = func._schema.name
    aliases = [returned.alias_info for returned in func._schema.returns]
    views = any(alias is not None and not alias.is_write for alias in aliases)
    return views or name in ("aten::_unsafe_view", "aten::_reshape_alias", "aten::detach") or "empty" in name


_Step = tuple[Any, Any, dict[str, Any], Any]  # an operator, what it was given, and what it gave

_OPEN: list[SimulatedDevice] = []


def _current() -> SimulatedDevice:
    if not _OPEN:
        raise RuntimeError("tensors on the simulated device work only while it is open")
    return _OPEN[-1]


def _place() -> str:
    """The innermost line of this project's own code on the stack."""
    for frame in reversed(traceback.extract_stack(limit=100)):
        if "site-packages" not in frame.filename and any(part in frame.filename for part in _PROJECT):
            return f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno} {frame.line}"
    return "outside of the project"


def _is_here(device: torch.device | str) -> bool:
    return torch.device(device).type == NAME


def _unwrapped(value: Any) -> Any:
    return value.inner if isinstance(value, SimulatedTensor) else value


def _wrapped(value: Any) -> Any:
    return SimulatedTensor(value) if isinstance(value, Tensor) and not isinstance(value, SimulatedTensor) else value


@cache
def register() -> torch.library.Library:
    """Tell PyTorch of the device, and how to make tensors below the reach of dispatch modes.

    A process that computes gradients on the device must call it before its first gradient on any.
    """
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME)  # type: ignore[no-untyped-call]
    library = torch.library.Library("aten", "IMPL")

    def empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_: Any) -> Tensor:
        return SimulatedTensor(
            torch.empty(size, dtype=dtype, device="cpu", memory_format=memory_format or torch.contiguous_format)
        )

    def empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
        return SimulatedTensor(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))

    def copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
        if isinstance(source, SimulatedTensor) != isinstance(target, SimulatedTensor):
            _current().waits("copy from the host" if isinstance(target, SimulatedTensor) else "copy to the host")
        _current().compute(torch.ops.aten.copy_.default, (target, source), {})
        return target

    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    return library
