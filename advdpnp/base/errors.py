"""The errors that users see, and how errors of other code are described."""

import difflib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class AdvdpnpError(Exception):
    """An error that the user can fix.

    The message is one sentence that says what is wrong and what to do about it. The command line prints it
    without a traceback and exits with code 2.
    """


class AlreadyTold(AdvdpnpError):
    """An error that another process of the same command has already reported."""


@contextmanager
def one_speaks(first: bool) -> Iterator[None]:
    """Report an error that all processes of a command raise only in the ``first`` of them.

    The other processes raise ``AlreadyTold``. With ADVDPNP_DEBUG set, every process reports its errors. Errors that are
    not an ``AdvdpnpError`` are bugs, which every process always reports.
    """
    try:
        yield
    except (AdvdpnpError, KeyboardInterrupt) as error:
        if first or os.environ.get("ADVDPNP_DEBUG"):
            raise
        raise AlreadyTold(str(error)) from error


class ModelError(AdvdpnpError):
    """The model is at fault. A caller that knows its name puts the name before the sentence."""


class ModelFailure(ModelError):
    """The model's own code raised an error.

    Args:
        what: the operation that failed.
        raised: a description of the error.
    """

    def __init__(self, what: str, raised: str) -> None:
        super().__init__(what, raised)
        self.what, self.raised = what, raised

    def __str__(self) -> str:
        return f"{self.what} fails: {self.raised}; fix the model's code"


_TOLD = 3


def raise_together(sentences: Sequence[str]) -> None:
    """Raise an AdvdpnpError of several sentences, if there are any; the first three are told."""
    if sentences:
        more = f"; and {len(sentences) - _TOLD} more" if len(sentences) > _TOLD else ""
        raise AdvdpnpError("; ".join(sentences[:_TOLD]) + more)


def did_you_mean(word: str, choices: Iterable[str], otherwise: str) -> str:
    """A hint for a misspelt name: "did you mean A or B?" with up to 3 similar choices, or ``otherwise`` without any."""
    close = difflib.get_close_matches(word, list(choices), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else otherwise


def with_known_options(hints: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: options that the function does not have are refused in one sentence instead of a TypeError.

    Args:
        hints: what is said of options that other libraries have.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names = list(inspect.signature(function).parameters)

        @wraps(function)
        def call(*arguments: P.args, **options: P.kwargs) -> R:
            for name in options:
                if name not in names:
                    begun = [each for each in names if name.startswith(each)]  # epsilon
                    usual = did_you_mean(name, begun or names, otherwise=f"it has {', '.join(names)}")
                    raise AdvdpnpError(f"{function.__name__} has no option '{name}'; {hints.get(name, usual)}")
            return function(*arguments, **options)

        return call

    return decorate


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def describe(error: BaseException) -> str:
    """Type and first line of an error that other code raised; the message alone of an ``AdvdpnpError``."""
    if isinstance(error, AdvdpnpError):
        return str(error)
    if not str(error).strip():
        return type(error).__name__
    first = first_line(error)
    first = first if len(first) <= 160 else f"{first[:157]}..."  # network errors contain whole object dumps
    return f"{type(error).__name__}: {first}"
