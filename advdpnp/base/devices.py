"""What kinds of devices can and cannot do, and how this process uses the cores and the memory of the machine."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

TYPES = ("cpu", "cuda", "mps", "xpu")
"""Kinds of devices that evaluations run on: processors, NVIDIA and AMD, Apple, Intel."""

OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)
"""What is raised where the memory of an accelerator is short, or that of the machine."""

WITHOUT_FLOAT64 = frozenset({"mps"})


def has_float64(device: torch.device) -> bool:
    """Whether tensors of float64 can be there."""
    return device.type not in WITHOUT_FLOAT64


def widest_float(device: torch.device) -> torch.dtype:
    """float64 where the device has it, else float32."""
    return torch.float64 if has_float64(device) else torch.float32


@contextmanager
def single_threaded(enabled: bool = True) -> Iterator[None]:
    """Use one core in this thread if ``enabled``. The rounding of sums depends on the number of cores."""
    before = torch.get_num_threads()
    if enabled:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if enabled:
            torch.set_num_threads(before)


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_SETTINGS = ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 1 << 30), (_M_TOP_PAD, 64 << 20))


@cache
def keep_freed_memory() -> bool:
    """Make the C library of this process keep freed memory for reuse instead of returning it to the operating system.

    An attack allocates and frees tensors of the same few sizes millions of times. By default, glibc returns each one to
    the system, and the page faults of the next allocation cost several times as much as the arithmetic. No computed
    result changes.

    Returns:
        whether it succeeded.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return all(mallopt(name, value) == 1 for name, value in _SETTINGS)
