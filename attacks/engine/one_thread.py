"""One thread at a time evaluates a model, for evaluation changes its modes, its flags and its buffers."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

from advdpnp.base.errors import AdvdpnpError

_users: "WeakKeyDictionary[nn.Module, int]" = WeakKeyDictionary()  # models in evaluation mode, and by which thread
_entering = threading.Lock()


@contextmanager
def by_this_thread(model: nn.Module) -> Iterator[None]:
    """Nobody but this thread evaluates the model until the block ends; the same thread may enter again.

    Raises:
        AdvdpnpError: another thread does: it has changed the modes, and would restore buffers under this one's hands.
    """
    me = threading.get_ident()
    with _entering:
        first = model not in _users
        user = _users.setdefault(model, me)
    if user != me:
        raise AdvdpnpError(
            "another thread evaluates this model, and has changed its modes; give each thread its own copy.deepcopy of "
            "it, or wait for the other"
        )
    try:
        yield
    finally:
        if first:
            _users.pop(model, None)
