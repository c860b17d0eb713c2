"""Make the C library keep freed memory for reuse instead of returning it to the operating system.

An attack allocates and frees tensors of the same few sizes millions of times. By default, glibc returns each one to the
system, and the page faults of the next allocation cost several times as much as the arithmetic.
"""

import ctypes
from functools import cache

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_SETTINGS = ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 1 << 30), (_M_TOP_PAD, 64 << 20))


@cache
def keep_freed_memory() -> bool:
    """Configure the allocator of this process, once. Returns whether it succeeded. No computed result changes."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return all(mallopt(name, value) == 1 for name, value in _SETTINGS)
