"""What all tests need of their process."""

import signal


def pytest_configure() -> None:
    """Signals do what they do by default: under nohup, or in the background of a script, some are ignored, and children
    of a process inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGHUP", "SIGTERM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
