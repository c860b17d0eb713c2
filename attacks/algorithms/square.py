"""The Square attack: random search over squares, without gradients (Andriushchenko et al. 2020)."""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from advdpnp.attacks.losses import margin
from advdpnp.attacks.norms import length
from advdpnp.attacks.protocol import ATTACKS, PREPARED_FOR, BoundedAttack, Loss, State
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
        plans: squares of the next queries, (n, queries, numbers); (n, 0, numbers) in states that are not prepared.
        planned: query of the first of them, int64 (n,).
    """

    best: Tensor
    best_value: Tensor
    candidate: Tensor
    query: Tensor
    plans: Tensor
    planned: Tensor


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
            plans=x.new_empty(len(x), 0, 1),
            planned=zero,
        )

    @property
    def prepared_for(self) -> int:
        """Random numbers and places take more operations than all else."""
        return PREPARED_FOR

    def prepare(self, state: SquareState) -> SquareState:
        """Plan the next queries at once."""
        n, count = len(state.query), PREPARED_FOR
        query = (state.query[:, None] + _on(tuple(range(count)), state.query.device)).reshape(-1)
        draw = Draw(state.draw.key[:, None].expand(n, count).reshape(-1))
        plans = _PROPOSALS[self.threat.norm].plan(self, state.x, draw, query)
        return replace(state, plans=plans.view(n, count, -1), planned=state.query)

    def _plan(self, state: SquareState) -> Tensor:
        """The plan of each row's query, (n, numbers)."""
        if not state.plans.shape[1]:
            return _PROPOSALS[self.threat.norm].plan(self, state.x, state.draw, state.query)
        place = (state.query - state.planned).view(-1, 1, 1).expand(-1, 1, state.plans.shape[2])
        return state.plans.gather(1, place)[:, 0]

    def ask(self, state: SquareState) -> tuple[Tensor, Loss | None]:
        return state.candidate, None

    def tell(self, state: SquareState, logits: Tensor, gradient: Tensor | None, misclassified: Tensor) -> SquareState:
        value = margin(logits, state.y)
        better = value > state.best_value
        best = where_rows(better, state.candidate, state.best) if any_row(better) else state.best
        return replace(
            state,
            best=best,
            best_value=torch.maximum(value, state.best_value),
            candidate=_PROPOSALS[self.threat.norm].next(self, state.x, best, self._plan(state)),
            query=state.query + 1,
            done=state.done | (state.query >= self.queries),
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


def _middle(top: Tensor, left: Tensor, side: Tensor) -> Tensor:
    """The middle of each square in half pixels, int64 (n, 2)."""
    return torch.stack([top, left], 1).mul_(2).add_(side[:, None])


def _squares(like: Tensor, middle: Tensor, side: Tensor) -> Tensor:
    """One in each row's square and zero elsewhere, (n, 1, h, w). Floats, because bools are slow.

    Args:
        like: images, (n, c, h, w).
        middle: as ``_middle`` returns it, (n, 2).
        side: in pixels, (n, 1).
    """
    height, width = like.shape[2:]
    pixels = _on(tuple(range(1, 2 * max(height, width), 2)), like.device)  # their middles, in half pixels
    inside = ((pixels - middle[:, :, None]).abs_() < side[:, :, None]).to(like.dtype)
    return inside[:, 0, :height].view(-1, 1, height, 1) * inside[:, 1, :width].view(-1, 1, 1, width)


class _Proposals(Protocol):
    """The start and the proposals of the search under one norm; images (n, c, h, w).

    A plan has the numbers of one query, (n, numbers): all that depends on nothing but the row and the query. With a
    side of zero the best image is proposed again, as the last one.
    """

    def first(self, attack: Square, x: Tensor, draw: Draw) -> Tensor: ...
    def plan(self, attack: Square, x: Tensor, draw: Draw, query: Tensor) -> Tensor: ...
    def next(self, attack: Square, x: Tensor, best: Tensor, plan: Tensor) -> Tensor: ...


class _Linf:
    def first(self, attack: Square, x: Tensor, draw: Draw) -> Tensor:
        """Vertical stripes of +eps and -eps."""
        threat = attack.threat
        return (x + threat.eps * _signs(draw, (x.shape[1], 1, x.shape[3]), 0, x)).clamp(threat.low, threat.high)

    def plan(self, attack: Square, x: Tensor, draw: Draw, query: Tensor) -> Tensor:
        """Middle and side of the square, and its value in each channel."""
        threat, (channels, height, width) = attack.threat, x.shape[1:]
        side = attack.sides(query, height, width, 1)
        chance = draw.uniform((channels + 2,), query + 1)  # one call for all numbers, because calls are expensive
        top, left = _corner(chance[:, channels:], side, height, width)
        steps = (chance[:, :channels] < 0.5).to(x.dtype).mul_(-2 * threat.eps).add_(threat.eps)
        numbers = [_middle(top, left, side), side.masked_fill(query >= attack.queries, 0)[:, None], steps]
        return torch.cat([each.to(x.dtype) for each in numbers], 1)

    def next(self, attack: Square, x: Tensor, best: Tensor, plan: Tensor) -> Tensor:
        """A square of +eps or -eps in each channel, which replaces the old perturbation."""
        square = _squares(x, plan[:, :2], plan[:, 2:3])
        changed = (x + plan[:, 3:, None, None]).clamp_(attack.threat.low, attack.threat.high)
        return torch.lerp(best, changed, square)


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

    def plan(self, attack: Square, x: Tensor, draw: Draw, query: Tensor) -> Tensor:
        """Middles of the window and of its source, their side, the window's level, place and turn, a sign a channel."""
        height, width = x.shape[2:]
        level = _level(query)
        side = _on(self._sides(attack, height, width), x.device)[level]
        places = [
            _corner(draw.uniform((2,), purpose, query), side, height, width) for purpose in (_PLACE, _OTHER_PLACE)
        ]
        turned = draw.integers((), 2, _TURN, query + 1)
        window = torch.stack([side.masked_fill(query >= attack.queries, 0), level, *places[0], turned], 1)
        signs = _signs(draw, (x.shape[1],), query + 1, x)
        middles = [_middle(*place, side) for place in places]
        return torch.cat([each.to(x.dtype) for each in (*middles, window, signs)], 1)

    def next(self, attack: Square, x: Tensor, best: Tensor, plan: Tensor) -> Tensor:
        """Add the pattern to one window, with the L2 budget of that window and of another one, which becomes zero."""
        side = plan[:, 4:5]
        window, source = _squares(x, plan[:, :2], side), _squares(x, plan[:, 2:4], side)
        delta = best - x
        pattern = _patterns(self._sides(attack, *x.shape[2:]), x.device).to(x.dtype)
        fresh = self._painted(x, pattern, *plan[:, 5:9, None, None].unbind(1)) * window
        fresh = fresh * plan[:, 9:, None, None]
        fresh = fresh + delta * window / (_energy(delta * window) + 1e-12)
        spare = (attack.threat.eps**2 - length(delta, "l2")[:, None, None, None] ** 2).clamp(min=0) / x.shape[1]
        budget = (spare + _energy(delta * torch.maximum(window, source)) ** 2).sqrt()
        fresh = fresh / (_energy(fresh) + 1e-12) * budget
        moved = self._at_eps(attack, x, torch.lerp(delta * (1 - source), fresh, window))
        return where_rows(side[:, 0] > 0, moved, best)

    def _sides(self, attack: Square, height: int, width: int) -> tuple[int, ...]:
        """By level, in pixels: odd where the image allows it."""
        sides = (attack.side(level, height, width, 3) for level in range(len(_HALVINGS) + 1))
        return tuple(min(side + (side + 1) % 2, height, width) for side in sides)

    def _painted(self, x: Tensor, patterns: Tensor, level: Tensor, top: Tensor, left: Tensor, turned: Tensor) -> Tensor:
        """The pattern in each row's square, (n, 1, h, w), of numbers (n, 1, 1). Outside the square it is arbitrary."""
        height, width = x.shape[2:]
        rows = (_on(tuple(range(height)), x.device)[:, None] - top).clamp(0, patterns.shape[1] - 1)
        columns = (_on(tuple(range(width)), x.device) - left).clamp(0, patterns.shape[1] - 1)
        rows, columns = torch.broadcast_tensors(rows.long(), columns.long())
        first, second = torch.where(turned > 0, columns, rows), torch.where(turned > 0, rows, columns)
        return patterns[level.long(), first, second][:, None]

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
def _patterns(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """The patterns with these sides, each padded to the largest side, (sides, largest, largest)."""
    largest = max(sides)
    table = torch.zeros(len(sides), largest, largest)
    for index, side in enumerate(sides):
        table[index, :side, :side] = _pattern(side)
    return table.to(device)


_PROPOSALS: dict[str, _Proposals] = {"linf": _Linf(), "l2": _L2()}


@ATTACKS.register(
    "square",
    description="random search over squares, 5,000 queries, no gradients",
    reference="Andriushchenko et al., Square Attack: a query-efficient black-box adversarial attack, 2020",
)
def square(threat: ThreatModel, classes: int) -> Square:
    return Square(threat)
