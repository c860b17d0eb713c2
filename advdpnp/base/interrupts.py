"""Signals that ask a command to end: SIGINT (Ctrl-C), SIGTERM (SLURM, kill) and SIGHUP (the terminal was closed)."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[Callable[[], None]]:
    """Handle these signals with ``handler`` inside the block; the yielded function restores the old handlers early.

    Signals that the process already ignores (nohup, background jobs) stay ignored. Outside the main thread, where
    Python allows no signal handlers, nothing changes.
    """
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, before in previous.items():
            signal.signal(number, before)

    if threading.current_thread() is threading.main_thread():
        for number in _ASKING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, handler)
    try:
        yield restore
    finally:
        restore()


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Raise KeyboardInterrupt on each of these signals inside the block, so that all cleanup code runs.

    The yielded function tells whether a signal has arrived, because other code may turn KeyboardInterrupt into
    another error.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    with _handled(ask):
        yield lambda: asked


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Let the first of these signals inside the block only set a flag; a second one takes effect at once.

    The yielded function reads the flag.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        restore()

    with _handled(ask) as restore:
        yield lambda: asked
