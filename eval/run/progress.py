"""How an evaluation tells what it does: a protocol for whoever draws it, and the silence that is the default."""

from typing import Protocol


class Progress(Protocol):
    """Receives the course of an evaluation. Called from the evaluating thread; it should return at once."""

    def start(self, model: str, unit: str, total: int, done: int) -> None:
        """A unit begins: ``unit`` as tables call it ("pgd-20, linf 8/255"); ``done`` of ``total`` samples are known."""

    def advance(self, samples: int, robust: int) -> None:
        """``samples`` more are decided, of which ``robust`` are still classified correctly."""

    def finish(self) -> None:
        """The unit is complete."""


class Silent:
    """Shows nothing."""

    def start(self, model: str, unit: str, total: int, done: int) -> None:
        pass

    def advance(self, samples: int, robust: int) -> None:
        pass

    def finish(self) -> None:
        pass
