"""The Square attack: random search over squares, without gradients (Andriushchenko et al. 2020)."""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from advdpnp.attacks.losses import margin
from advdpnp.attacks.norms import length
from advdpnp.attacks.protocol import ATTACKS, BoundedAttack, Loss, State
from advdpnp.attacks.rows import any_row, where_rows
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.randomness import Draw

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries after which the area of the squares halves (section 5). As in AutoAttack, it ignores the query budget."""

_SIGNS, _PLACE, _OTHER_PLACE, _TURN = range(4)  # purposes of the random numbers of one query in the L2 search


@dataclass(frozen=True)
class SquareState(State):
    """State of the search.

    Attributes:
        best: image with the largest margin loss so far, (n, c, h, w).
        best_value: its margin loss, (n,).
        candidate: image to evaluate, (n, c, h, w).
        query: images evaluated so far, int64 (n,).
    """

    best: Tensor
    best_value: Tensor
    candidate: Tensor
    query: Tensor


@dataclass(frozen=True)
class Square(BoundedAttack):
    """Changes a random square of the perturbation and keeps the change if the margin loss rises.

    Attributes:
        threat: Linf (algorithm 2 of the paper) or L2 (algorithm 3).
        queries: number of queries after the first image.
        share: share of the image that the first squares cover, in (0, 1].
        name: name in tables. The random streams depend on it.
    """

    queries: int = 5000
    share: float = 0.8
    name: str = "square"

    def definition(self) -> dict[str, Any]:
        return {"attack": "square", "name": self.name, "queries": self.queries, "share": self.share, "version": 1}

    def start(self, x: Tensor, y: Tensor, logits: Tensor | None, draw: Draw) -> SquareState:
        zero = torch.zeros_like(y)
        first = _PROPOSALS[self.threat.norm].first(self, x, draw)
        return SquareState(
            x=x,
            y=y,
            done=zero.bool(),
            draw=draw,
            best=first,
            best_value=x.new_full((len(x),), -torch.inf),
            candidate=first,
            query=zero,
        )

    def ask(self, state: SquareState) -> tuple[Tensor, Loss | None]:
        return state.candidate, None

    def tell(self, state: SquareState, logits: Tensor, gradient: Tensor | None, misclassified: Tensor) -> SquareState:
        value = margin(logits, state.y)
        better = value > state.best_value
        best = where_rows(better, state.candidate, state.best) if any_row(better) else state.best
        done = state.query >= self.queries
        proposed = _PROPOSALS[self.threat.norm].next(self, state.x, best, state.draw, state.query)
        return replace(
            state,
            best=best,
            best_value=torch.where(better, value, state.best_value),
            candidate=where_rows(done, best, proposed) if any_row(done) else proposed,
            query=state.query + 1,
            done=state.done | done,
        )

    def sides(self, query: Tensor, height: int, width: int, smallest: int) -> Tensor:
        """Side of each row's square in pixels, int64 (n,)."""
        sides = tuple(self.side(level, height, width, smallest) for level in range(len(_HALVINGS) + 1))
        return _on(sides, query.device)[_level(query)]

    def side(self, level: int, height: int, width: int, smallest: int) -> int:
        """Side of the squares after ``level`` halvings, in pixels."""
        return min(max(round(math.sqrt(self.share * 0.5**level * height * width)), smallest), height, width)


def _level(query: Tensor) -> Tensor:
    """Number of halvings so far of each row, int64 (n,)."""
    return (query[:, None] > _on(_HALVINGS, query.device)).sum(1)


@cache
def _on(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, device=device)


def _signs(draw: Draw, shape: tuple[int, ...], query: int | Tensor, like: Tensor) -> Tensor:
    return (draw.integers(shape, 2, _SIGNS, query) * 2 - 1).to(like.dtype)


def _corner(chance: Tensor, side: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Top and left of a random square inside the image, int64 (n,) each, from numbers in [0, 1), (n, 2)."""
    return (chance[:, 0] * (height + 1 - side)).long(), (chance[:, 1] * (width + 1 - side)).long()


def _inside(like: Tensor, top: Tensor, left: Tensor, side: Tensor) -> Tensor:
    """One in each row's square and zero elsewhere, (n, 1, h, w). Floats, because bools are slow."""
    down, across = _band(like.shape[2], top, side).to(like.dtype), _band(like.shape[3], left, side).to(like.dtype)
    return down[:, None, :, None] * across[:, None, None, :]


def _band(size: int, first: Tensor, side: Tensor) -> Tensor:
    """Which of ``size`` lines are in [first, first + side), bool (n, size)."""
    lines = _on(tuple(range(size)), first.device)
    return (lines >= first[:, None]) & (lines < (first + side)[:, None])


class _Proposals(Protocol):
    """The start and the proposals of the search under one norm; images (n, c, h, w)."""

    def first(self, attack: Square, x: Tensor, draw: Draw) -> Tensor: ...
    def next(self, attack: Square, x: Tensor, best: Tensor, draw: Draw, query: Tensor) -> Tensor: ...


class _Linf:
    def first(self, attack: Square, x: Tensor, draw: Draw) -> Tensor:
        """Vertical stripes of +eps and -eps."""
        threat = attack.threat
        return (x + threat.eps * _signs(draw, (x.shape[1], 1, x.shape[3]), 0, x)).clamp(threat.low, threat.high)

    def next(self, attack: Square, x: Tensor, best: Tensor, draw: Draw, query: Tensor) -> Tensor:
        """A square of +eps or -eps in each channel, which replaces the old perturbation."""
        threat, (channels, height, width) = attack.threat, x.shape[1:]
        side = attack.sides(query, height, width, 1)
        chance = draw.uniform((channels + 2,), query + 1)  # one call for all numbers, because calls are expensive
        square = _inside(x, *_corner(chance[:, channels:], side, height, width), side)
        steps = (chance[:, :channels, None, None] < 0.5).to(x.dtype).mul_(-2 * threat.eps).add_(threat.eps)
        return torch.lerp(best, (x + steps).clamp_(threat.low, threat.high), square)


class _L2:
    def first(self, attack: Square, x: Tensor, draw: Draw) -> Tensor:
        """Five by five tiles of the pattern, with a random sign in each channel and a random orientation."""
        side = max(x.shape[2] // 5, 1)
        down, across = x.shape[2] // side, x.shape[3] // side
        signs = _signs(draw, (x.shape[1], down, across), 0, x)
        turned = draw.integers((down, across), 2, _TURN, 0).bool()
        pattern = _pattern(side).to(x)
        tiles = torch.where(turned[:, None, :, :, None, None], pattern.T, pattern) * signs[..., None, None]
        tiled = tiles.permute(0, 1, 2, 4, 3, 5).reshape(*x.shape[:2], down * side, across * side)
        start = torch.zeros_like(x)
        top, left = (x.shape[2] - down * side) // 2, (x.shape[3] - across * side) // 2
        start[:, :, top : top + down * side, left : left + across * side] = tiled
        return self._at_eps(attack, x, start)

    def next(self, attack: Square, x: Tensor, best: Tensor, draw: Draw, query: Tensor) -> Tensor:
        """Add the pattern to one window, with the L2 budget of that window and of another one, which becomes zero."""
        height, width = x.shape[2:]
        sides = [min(side + (side + 1) % 2, height, width) for side in self._sides(attack, height, width)]
        side = _on(tuple(sides), x.device)[_level(query)]
        top, left = _corner(draw.uniform((2,), _PLACE, query), side, height, width)
        window = _inside(x, top, left, side)
        source = _inside(x, *_corner(draw.uniform((2,), _OTHER_PLACE, query), side, height, width), side)
        delta = best - x
        turned = draw.integers((1, 1, 1), 2, _TURN, query + 1).bool()
        fresh = self._painted(x, tuple(sides), _level(query), top, left, turned) * window
        fresh = fresh * _signs(draw, (x.shape[1], 1, 1), query + 1, x)
        fresh = fresh + delta * window / (_energy(delta * window) + 1e-12)
        spare = (attack.threat.eps**2 - length(delta, "l2")[:, None, None, None] ** 2).clamp(min=0) / x.shape[1]
        budget = (spare + _energy(delta * torch.maximum(window, source)) ** 2).sqrt()
        fresh = fresh / (_energy(fresh) + 1e-12) * budget
        return self._at_eps(attack, x, torch.lerp(delta * (1 - source), fresh, window))

    def _sides(self, attack: Square, height: int, width: int) -> list[int]:
        return [attack.side(level, height, width, 3) for level in range(len(_HALVINGS) + 1)]

    def _painted(
        self, x: Tensor, sides: tuple[int, ...], level: Tensor, top: Tensor, left: Tensor, turned: Tensor
    ) -> Tensor:
        """The pattern in each row's square, (n, 1, h, w). Values outside the square are arbitrary."""
        patterns = _patterns(sides).to(x)
        top, left = top[:, None, None, None], left[:, None, None, None]
        rows = (torch.arange(x.shape[2], device=x.device)[:, None] - top).clamp(0, patterns.shape[1] - 1)
        columns = (torch.arange(x.shape[3], device=x.device) - left).clamp(0, patterns.shape[1] - 1)
        rows, columns = torch.broadcast_tensors(rows, columns)
        first, second = torch.where(turned, columns, rows), torch.where(turned, rows, columns)
        return patterns[level[:, None, None, None], first, second]

    def _at_eps(self, attack: Square, x: Tensor, delta: Tensor) -> Tensor:
        threat = attack.threat
        size = length(delta, "l2")[:, None, None, None] + 1e-12
        return (x + delta / size * threat.eps).clamp(threat.low, threat.high)


def _energy(delta: Tensor) -> Tensor:
    """L2 norm of each channel, (n, c, 1, 1)."""
    return torch.linalg.vector_norm(delta, dim=(2, 3), keepdim=True)  # type: ignore[no-any-return]


def _half_pattern(height: int, width: int) -> Tensor:
    """Half of the pattern: a sum of nested rectangles around the centre, weighted by 1 / (ring + 1)^2, of norm 1."""
    field = torch.zeros(height, width)
    top, left = height // 2, width // 2
    for ring in range(max(top, left) + 1):
        rows, columns = slice(max(top - ring, 0), top + ring + 1), slice(max(left - ring, 0), left + ring + 1)
        field[rows, columns] += 1 / (ring + 1) ** 2
    half: Tensor = field / torch.linalg.vector_norm(field)
    return half


@cache
def _pattern(side: int) -> Tensor:
    """Two halves of opposite sign, one above the other, of norm 1 (figure 3 and algorithm 4 of the paper)."""
    if side == 1:
        return torch.ones(1, 1)
    pattern = torch.cat([_half_pattern(side // 2, side), -_half_pattern(side - side // 2, side)])
    whole: Tensor = pattern / torch.linalg.vector_norm(pattern)
    return whole


@cache
def _patterns(sides: tuple[int, ...]) -> Tensor:
    """The patterns with these sides, each padded to the largest side, (sides, largest, largest)."""
    largest = max(sides)
    table = torch.zeros(len(sides), largest, largest)
    for index, side in enumerate(sides):
        table[index, :side, :side] = _pattern(side)
    return table


_PROPOSALS: dict[str, _Proposals] = {"linf": _Linf(), "l2": _L2()}


@ATTACKS.register(
    "square",
    description="random search over squares, 5,000 queries, no gradients",
    reference="Andriushchenko et al., Square Attack: a query-efficient black-box adversarial attack, 2020",
)
def square(threat: ThreatModel, classes: int) -> Square:
    return Square(threat)
