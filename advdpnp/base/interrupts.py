"""Signals that ask a command to end: Ctrl-C, SIGTERM (SLURM, kill) and SIGHUP (the terminal has gone)."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[Callable[[], None]]:
    """Inside, ``handler`` gets these signals; the yielded function ends that early.

    What the caller ignores (nohup, background jobs) stays ignored. Outside the main thread, where Python allows no
    signal handlers, nothing is changed.
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
    """Inside, each of these signals raises KeyboardInterrupt, so that everything cleans up behind itself.

    The yielded function tells whether one has come: code of others may make another error of it.
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
    """Inside, the first of these signals only sets a flag, which the yielded function reads; a second acts at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        restore()

    with _handled(ask) as restore:
        yield lambda: asked
