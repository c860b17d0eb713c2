"""How far a search is: what a caller can be told between results, which arrive only when samples finish."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from advdpnp.attacks.engine.scheduler import Scheduler
from advdpnp.attacks.info import describe
from advdpnp.attacks.protocol import Attack

HEARTBEAT = 1.0
"""Seconds between two statuses of a search."""

T = TypeVar("T")


@dataclass(frozen=True)
class SearchStatus:
    """How far a search is.

    Attributes:
        undecided: samples that have begun and are neither broken nor given up, by stage.
        spent: model evaluations (forwards and backwards, of one image each) so far.
        left: evaluations still to come at most, for the samples that have begun; None if an attack does not say.
    """

    undecided: Mapping[str, int]
    spent: int
    left: int | None

    @classmethod
    def of(cls, parts: Sequence[Scheduler], finished: int) -> "SearchStatus":
        """Of the schedulers of a search, in order; ``finished`` evaluations are those of stages that samples passed."""
        undecided, spent, left = Counter[str](), finished, 0
        costs = _costs([part.attack for part in parts])
        for place, part in enumerate(parts):
            rows, cost = part.in_work(waiting=place > 0)
            undecided[part.attack.name] += rows
            spent += cost
            whole = sum(costs[place:])
            left += max(0, rows * (whole if part.budget is None else min(whole, part.budget)) - cost)
        return cls(dict(+undecided), spent, left if all(costs) else None)

    @classmethod
    def total(cls, parts: Iterable["SearchStatus"]) -> "SearchStatus":
        """Of a search whose samples are divided among processes."""
        undecided, spent, left = Counter[str](), 0, 0
        unknown = False
        for part in parts:
            undecided.update(part.undecided)
            spent += part.spent
            left += part.left or 0
            unknown |= part.left is None
        return cls(dict(undecided), spent, None if unknown else left)


def _costs(stages: Sequence[Attack]) -> list[int]:
    """Evaluations of a sample that survives a stage; 0 if an attack does not say."""
    return [describe(stage).evaluations or 0 for stage in stages]


class Heartbeat:
    """Says when the next status is due: at once, and then every ``HEARTBEAT`` seconds."""

    def __init__(self) -> None:
        self._due = 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + HEARTBEAT
        return True


def tell_status(
    items: Iterable[T | tuple[int, SearchStatus]], on_status: Callable[[SearchStatus], None]
) -> Iterator[T]:
    """Yield results; statuses, each with the number of its process, go to ``on_status`` as one of all processes."""
    latest: dict[int, SearchStatus] = {}
    for item in items:
        if isinstance(item, tuple):
            latest[item[0]] = item[1]
            on_status(SearchStatus.total(latest.values()))
        else:
            yield item
