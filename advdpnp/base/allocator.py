"""Have the C library keep freed memory instead of handing it back and fetching it again, page by page.

An attack makes and drops tensors of the same few sizes millions of times. By default glibc returns each to the system,
and the page faults of the next cost several times what the arithmetic does.
"""

import ctypes
from functools import cache

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_SETTINGS = ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 1 << 30), (_M_TOP_PAD, 64 << 20))


@cache
def keep_freed_memory() -> bool:
    """Tell the C library of this process, once; whether it could be told. The results of no computation change."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return all(mallopt(name, value) == 1 for name, value in _SETTINGS)
