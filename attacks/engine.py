"""The loop around asked attacks: keeps the batch full, verifies, and counts what each row costs.

A row is one sample under one attack. Rows in flight are asked together, in chunks of exactly the execution shape; rows
that end leave between iterations and waiting ones take their place. What is found for a sample depends on nothing but
the sample: not on its company, its place, or how many rows are in flight.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from advdpnp.attacks.contract import Attack, Rows, State
from advdpnp.attacks.execution import Executor, check_inputs, evaluation_mode
from advdpnp.attacks.stages import Stages
from advdpnp.attacks.verification import judge, repeats
from advdpnp.randomness import Draw, seed_of

R = TypeVar("R", bound=Rows)

VERIFY_EVERY = 100
"""Minimum-norm rows have the nearest image so far verified after this many iterations each time, and at their end."""


@dataclass(frozen=True)
class Findings(Rows):
    """What became of samples; tensors on the CPU, one row each.

    Attributes:
        sample, label, clean_prediction, adversarial_prediction: int64 (n,).
        success: the model is fooled within the threat model (or by the clean image), bool.
        norm: distance of the nearest verified fooling image, float64; inf where none was found. Minimum-norm attacks
            may find one outside eps: that is no success.
        margin: own logit minus best other of the last image judged, float32.
        forwards, backwards: model evaluations spent on the row, int64.
        zero_gradient: the first gradient was exactly zero (or not finite), bool.
        borderline: the margin is within 1e-5 of the largest logit, bool.
        x_adv: the fooling image, float32 (n, c, h, w); the clean one without success.
    """

    sample: Tensor
    label: Tensor
    clean_prediction: Tensor
    adversarial_prediction: Tensor
    success: Tensor
    norm: Tensor
    margin: Tensor
    forwards: Tensor
    backwards: Tensor
    zero_gradient: Tensor
    borderline: Tensor
    x_adv: Tensor


@dataclass(frozen=True)
class Flight(Rows):
    """Rows in flight: the attack's state and the engine's own book-keeping.

    ``age`` counts iterations. ``candidate`` is an image to verify, ``candidate_norm`` its distance (inf: none waits);
    ``last`` says that nothing follows it. ``best`` is the nearest verified fooling image, ``best_norm`` its distance
    (inf: none yet), ``inside`` whether the threat model contains it.
    """

    state: State
    sample: Tensor
    clean_prediction: Tensor
    age: Tensor
    forwards: Tensor
    backwards: Tensor
    zero_gradient: Tensor
    candidate: Tensor
    candidate_norm: Tensor
    last: Tensor
    best: Tensor
    best_norm: Tensor
    inside: Tensor
    prediction: Tensor
    margin: Tensor
    borderline: Tensor


def search(
    model: nn.Module,
    attack: Attack | Stages,
    x: Tensor,
    y: Tensor,
    sample: Tensor,
    *,
    seed: int,
    shape: int,
    rows: int | None = None,
    device: torch.device | str = "cpu",
    randomised: bool = False,
) -> Iterator[Findings]:
    """Attack images and yield what was found as rows end; every sample exactly once, in any order.

    Args:
        model: on ``device``; in any mode, which is restored when the iterator ends or is closed.
        x: float32 images in [0, 1], (n, c, h, w); any device, any memory format.
        y: labels, int64 (n,).
        sample: what the samples are called, int64 (n,); their randomness comes from it, ``seed`` and the attack's name.
        shape: rows of every model call; part of the result.
        rows: most rows in flight; changes speed and memory, never the result. Default: ``shape``.
        randomised: the model is; the majority of 20 forwards decides.

    Raises:
        AdvdpnpError: unusable images, labels or logits.
    """
    check_inputs(x, y)
    executor = Executor(model, shape, device, seed_of(seed, "noise", attack.name) if randomised else None)
    with evaluation_mode(model):
        images = x.detach().float().contiguous()
        stages = attack.stages if isinstance(attack, Stages) else (attack,)
        searches = [_Search(stage, executor, seed, rows or shape) for stage in stages]
        yield from _overlapped(searches, _Unseen(images, y.long(), sample.long()))


def _overlapped(searches: list["_Search"], samples: "_Unseen") -> Iterator[Findings]:
    """All stages at once: the last one that can fill a batch goes on, else the first that has anything to do."""
    place = {int(name): index for index, name in enumerate(samples.sample)}
    forwards, backwards = torch.zeros(2, len(samples), dtype=torch.int64)
    zero_gradient = torch.zeros(len(samples), dtype=torch.bool)
    searches[0].feed(samples)
    while any(search.busy for search in searches):
        full = [search for search in searches if search.full]
        now = full[-1] if full else next(search for search in searches if search.busy)
        following = searches[searches.index(now) + 1 :]
        for found in now.advance():
            index = torch.tensor([place[int(name)] for name in found.sample])
            forwards[index] += found.forwards
            backwards[index] += found.backwards
            zero_gradient[index] |= found.zero_gradient
            costs = {"forwards": forwards[index], "backwards": backwards[index], "zero_gradient": zero_gradient[index]}
            goes_on = ~found.success if following else torch.zeros_like(found.success)
            yield from _some(replace(found, **costs)[~goes_on])
            if bool(goes_on.any()):
                following[0].feed(samples[index[goes_on]])


@dataclass(frozen=True)
class _Unseen(Rows):
    """Samples that a stage has not begun."""

    x: Tensor
    y: Tensor
    sample: Tensor


class _Search:
    """One stage. All calls of the attack and of the model have exactly ``shape`` rows: the same arithmetic always."""

    def __init__(self, attack: Attack, executor: Executor, seed: int, rows: int) -> None:
        self.attack, self.executor, self.shape, self.rows = attack, executor, executor.shape, rows
        self.stream = seed_of(seed, attack.name)
        self.unseen: deque[_Unseen] = deque()
        self.ready: list[Flight] = []  # can be asked: new rows, and those whose candidate was refused
        self.active: list[Flight] = []  # asked in every iteration; one piece, or none
        self.pending: list[Flight] = []  # wait to be verified, out of the batch meanwhile

    def feed(self, samples: _Unseen) -> None:
        """More samples to attack."""
        pieces = [samples[i : i + self.shape] for i in range(0, len(samples), self.shape)]
        if self.unseen and pieces and len(self.unseen[-1]) + len(pieces[0]) <= self.shape:
            pieces[0] = _Unseen.concatenate([self.unseen.pop(), pieces[0]])
        self.unseen.extend(pieces)

    @property
    def busy(self) -> bool:
        """Whether any sample is left."""
        return bool(self.unseen or self.ready or self.active or self.pending)

    @property
    def full(self) -> bool:
        """Whether the samples at hand fill a batch."""
        return _count([*self.unseen, *self.ready, *self.active]) >= self.shape

    def advance(self) -> Iterator[Findings]:
        """One iteration of the rows in flight, and what must go before it: new rows begin, ended ones are verified."""
        while self.unseen and _count(self.ready) + _count(self.active) < self.rows:
            begun, ended = self._begin(self.unseen.popleft())
            yield from _some(ended)
            self.ready += _some(begun)
        self.active, self.ready = _fill(self.active, self.ready, self.rows)
        for flight in self.active:
            leaving = flight.last | torch.isfinite(flight.candidate_norm) & self._is_time(flight)
            if bool(leaving.any()):
                self.pending.append(flight[leaving])
                self.active = _some(flight[~leaving])
        if _count(self.pending) >= self.shape or (self.pending and not self.active):
            kept, ended = self._verify(Flight.concatenate(self.pending))
            yield from _some(ended)
            self.ready, self.pending = _some(kept) + self.ready, []
        self.active = [self._by_shape(self._advance, flight) for flight in self.active]

    def _is_time(self, flight: Flight) -> Tensor:
        """Whether a candidate is to be verified now: by the row's own clock, lest its company show in the costs."""
        often = flight.age % VERIFY_EVERY == 0 if self.attack.minimum_norm else torch.ones_like(flight.last)
        return often | flight.state.done

    def _by_shape(self, function: Callable[[Flight], Flight], flight: Flight) -> Flight:
        """Apply a function of exactly ``shape`` rows to any number of them."""
        chunks = [flight[i : i + self.shape] for i in range(0, len(flight), self.shape)]
        return Flight.concatenate([function(chunk.padded(self.shape))[: len(chunk)] for chunk in chunks])

    def _begin(self, samples: _Unseen) -> tuple[Flight, Findings]:
        """Judge at most ``shape`` clean images: first rows of those classified right, findings of the mistakes."""
        count, device = len(samples), self.executor.device
        place = torch.arange(self.shape).clamp(max=count - 1)
        x, y, sample = (v[place.to(v.device)].to(device) for v in (samples.x, samples.y, samples.sample))
        clean = judge(self.executor, x, y)
        wrong = clean.prediction != y
        zero, far = torch.zeros_like(y), torch.full(y.shape, torch.inf, dtype=torch.float64, device=device)
        flight = Flight(
            state=self.attack.start(x, y, clean.logits, Draw.of(self.stream, sample)),
            sample=sample,
            clean_prediction=clean.prediction,
            age=zero,
            forwards=zero + repeats(self.executor),
            backwards=zero,
            zero_gradient=torch.zeros_like(wrong),
            candidate=x,
            candidate_norm=far,
            last=wrong,
            best=x,
            best_norm=far.masked_fill(wrong, 0.0),
            inside=wrong,
            prediction=clean.prediction,
            margin=clean.margin,
            borderline=clean.borderline,
        )[:count]
        return flight[~wrong[:count]], self._findings(flight[wrong[:count]])

    def _advance(self, flight: Flight) -> Flight:
        """One iteration of exactly ``shape`` rows."""
        state, gradient, backwards, zero_gradient = flight.state, None, flight.backwards, flight.zero_gradient
        queries, objective = self.attack.ask(state)
        if objective is None:
            logits = self.executor.logits(queries)
        else:
            logits, gradient = self.executor.logits_and_gradient(queries, objective)
            zero_gradient = zero_gradient | ((backwards == 0) & (gradient == 0).flatten(1).all(1))
            backwards = backwards + 1
        fooled = logits.argmax(1) != state.y
        flight = replace(
            flight,
            state=self.attack.tell(state, logits, gradient, fooled),
            age=flight.age + 1,
            forwards=flight.forwards + 1,
            backwards=backwards,
            zero_gradient=zero_gradient,
        )
        if bool(fooled.any()):
            distance = self._distance(state.x, queries)
            nearer = fooled & (distance < torch.minimum(flight.candidate_norm, flight.best_norm))
            flight = _propose(flight, nearer, queries, distance)
        return self._finish(flight)

    def _finish(self, flight: Flight) -> Flight:
        """Rows whose search has ended and that have nothing left to verify propose their last image."""
        ending = flight.state.done & ~flight.last & torch.isinf(flight.candidate_norm)
        if not bool(ending.any()):
            return flight
        queries, _ = self.attack.ask(flight.state)
        flight = replace(flight, last=flight.last | ending)
        return _propose(flight, ending, queries, self._distance(flight.state.x, queries))

    def _verify(self, flight: Flight) -> tuple[Flight, Findings]:
        """Judge the candidates: rows that go on, findings of those that end."""
        ended = flight.last  # as of before: a row may propose its last image only now
        flight = self._by_shape(self._judge, flight)
        if not self.attack.minimum_norm:
            ended = ended | flight.inside
        return flight[~ended], self._findings(flight[ended])

    def _judge(self, flight: Flight) -> Flight:
        """Exactly ``shape`` rows: a candidate that fools the model, is allowed and is nearer becomes the best image."""
        judged = judge(self.executor, flight.candidate, flight.state.y)
        distance = self._distance(flight.state.x, flight.candidate)
        success = (judged.prediction != flight.state.y) & (distance < flight.best_norm)
        shown = success | torch.isinf(flight.best_norm)
        flight = replace(
            flight,
            forwards=flight.forwards + repeats(self.executor),
            candidate_norm=torch.full_like(flight.candidate_norm, torch.inf),
            best=torch.where(success[:, None, None, None], flight.candidate, flight.best),
            best_norm=torch.where(success, distance, flight.best_norm),
            inside=torch.where(success, self.attack.threat.contains(flight.state.x, flight.candidate), flight.inside),
            prediction=torch.where(success, judged.prediction, flight.prediction),
            margin=torch.where(shown, judged.margin, flight.margin),
            borderline=torch.where(shown, judged.borderline, flight.borderline),
        )
        return self._finish(flight)

    def _distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Distance in the norm; inf for what is forbidden (a minimum-norm search may leave eps, but not the box)."""
        threat = self.attack.threat
        limit = replace(threat, eps=torch.inf) if self.attack.minimum_norm else threat
        return threat.distance(x, x_adv).masked_fill(~limit.contains(x, x_adv), torch.inf)

    def _findings(self, flight: Flight) -> Findings:
        success = flight.inside
        return Findings(
            sample=flight.sample,
            label=flight.state.y,
            clean_prediction=flight.clean_prediction,
            adversarial_prediction=torch.where(success, flight.prediction, flight.clean_prediction),
            success=success,
            norm=flight.best_norm,
            margin=flight.margin,
            forwards=flight.forwards,
            backwards=flight.backwards,
            zero_gradient=flight.zero_gradient,
            borderline=flight.borderline,
            x_adv=torch.where(success[:, None, None, None], flight.best, flight.state.x),
        ).to("cpu")


def _propose(flight: Flight, which: Tensor, images: Tensor, distance: Tensor) -> Flight:
    """Put images up for verification in the rows where ``which`` holds."""
    return replace(
        flight,
        candidate=torch.where(which[:, None, None, None], images, flight.candidate),
        candidate_norm=torch.where(which, distance, flight.candidate_norm),
    )


def _fill(active: list[Flight], ready: list[Flight], rows: int) -> tuple[list[Flight], list[Flight]]:
    """Move ready rows into the batch up to ``rows``: (active in one piece, what is still ready)."""
    room = rows - _count(active)
    if not ready or room <= 0:
        return active, ready
    queue = Flight.concatenate(ready)
    return _some(Flight.concatenate([*active, queue[:room]])), _some(queue[room:])


def _count(parts: Sequence[Rows]) -> int:
    return sum(map(len, parts))


def _some(rows: R) -> list[R]:
    """The rows as a list of one piece, or of none if there are none."""
    return [rows] if len(rows) else []
