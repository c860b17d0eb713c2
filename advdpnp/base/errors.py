"""The one kind of error a user is meant to see."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


class AdvdpnpError(Exception):
    """Something the user did or met stops the work.

    The message is one sentence that says what is wrong and what to do about it. The command line prints it
    without a traceback and exits with code 2.
    """


class AlreadyTold(AdvdpnpError):
    """The same mistake, in another process of the same command, which has told it."""


@contextmanager
def one_speaks(first: bool) -> Iterator[None]:
    """Around what several processes do alike, mistakes of the user above all: the ``first`` of them says what is wrong.

    What goes wrong in one process only can be seen with ADVDPNP_DEBUG; a bug is told by every process.
    """
    try:
        yield
    except (AdvdpnpError, KeyboardInterrupt) as error:
        if first or os.environ.get("ADVDPNP_DEBUG"):
            raise
        raise AlreadyTold(str(error)) from error


class ModelError(AdvdpnpError):
    """What is wrong lies with the model; whoever knows its name puts it before the sentence."""


class ModelFailure(ModelError):
    """The model's own code has raised something: ``what`` it did then, and what was raised."""

    def __init__(self, what: str, raised: str) -> None:
        super().__init__(what, raised)
        self.what, self.raised = what, raised

    def __str__(self) -> str:
        return f"{self.what} fails: {self.raised}; mend the model's code"


def first_line(error: BaseException) -> str:
    """What an error of somebody else's code says, without the pages that may follow; its type if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def describe(error: BaseException) -> str:
    """Type and first line of an error that other code raised; an ``AdvdpnpError`` is a sentence already."""
    if isinstance(error, AdvdpnpError):
        return str(error)
    if not str(error).strip():
        return type(error).__name__
    first = first_line(error)
    first = first if len(first) <= 160 else f"{first[:157]}..."  # network errors hold whole object dumps
    return f"{type(error).__name__}: {first}"
