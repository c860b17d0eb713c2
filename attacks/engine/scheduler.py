"""One stage of a search: keeps the batch full, verifies, and counts what each row costs."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from advdpnp.attacks.engine.executor import Executor
from advdpnp.attacks.engine.replicas import ModelReplicas
from advdpnp.attacks.engine.verification import judge, repeats
from advdpnp.attacks.protocol import Attack, PeriodicGradient, any_row
from advdpnp.attacks.search_state import AttackResult, Batch, SearchState, count, non_empty, propose
from advdpnp.base.randomness import Draw, seed_of

VERIFY_EVERY = 100
"""Minimum-norm rows have the nearest image so far verified after this many iterations each time, and at their end."""

LOOK_EVERY = {"cpu": 1}
"""Iterations between looks at which rows have ended. On other devices than these the host would wait at each."""
_LOOK_EVERY_ELSEWHERE = 8


class Scheduler:
    """All calls of the attack and of the model have a shape of the lanes: the same arithmetic always."""

    def __init__(
        self, attack: Attack, lanes: ModelReplicas, seed: int, rows: int | None, exact: "Scheduler | None" = None
    ) -> None:
        self.attack, self.lanes, self.shape, self.rows = attack, lanes, lanes.shape, rows or lanes.width
        self.sparing = attack if isinstance(attack, PeriodicGradient) and lanes.forwards_agree() else None
        gradient_period = self.sparing.gradient_period if self.sparing else 1
        self.patience = math.lcm(LOOK_EVERY.get(lanes.device.type, _LOOK_EVERY_ELSEWHERE), gradient_period)
        self.stream = seed_of(seed, attack.name)
        self.unseen: deque[Batch] = deque()
        self.ready: list[SearchState] = []  # can be asked: new rows, and those whose candidate was refused
        self.active: list[SearchState] = []  # asked in every iteration; full chunks
        self.here: list[Tensor] = []  # which rows of each chunk have not left; the others are padding
        self.present = 0  # how many
        self.clock = 0  # iterations
        self.pending: list[SearchState] = []  # wait to be verified, out of the batch meanwhile
        self.exact = exact  # takes over the rows that this one, of less precision, took for successes

    def feed(self, samples: Batch) -> None:
        """More samples to attack."""
        pieces = [samples[i : i + self.shape] for i in range(0, len(samples), self.shape)]
        if self.unseen and pieces and len(self.unseen[-1]) + len(pieces[0]) <= self.shape:
            pieces[0] = Batch.concatenate([self.unseen.pop(), pieces[0]])
        self.unseen.extend(pieces)

    @property
    def busy(self) -> bool:
        """Whether any sample is left."""
        return bool(self.unseen or self.ready or self.present or self.pending)

    @property
    def full(self) -> bool:
        """Whether the samples at hand fill a batch."""
        return count([*self.unseen, *self.ready]) + self.present >= self.rows

    def advance(self) -> Iterator[AttackResult]:
        """One iteration of the rows in flight, and what must go before it: new rows begin, ended ones are verified."""
        looking = self.clock % self.patience == 0  # rows come and go at these times alone, which keeps them in step
        if looking:
            self._let_go()
        while self.unseen and count(self.ready) + self.present < self.rows:
            begun, ended = self._begin(self.unseen.popleft())
            yield from non_empty(ended)
            self.ready += non_empty(begun)
        if count(self.pending) >= self.shape or (self.pending and not self.present and not self.ready):
            kept, ended = self._verify(SearchState.concatenate(self.pending))
            yield from non_empty(ended)
            self.pending = []
            self._return(kept)
        if looking and self._worth_packing():
            self._pack()
        if self.present:
            self.active = self.lanes.map_chunks(self._advance, self.active)
        self.clock += 1

    def _return(self, flight: SearchState) -> None:
        """Rows go on after their candidate was refused; those whose last image is all that is left wait once more."""
        self.ready = non_empty(flight[~flight.last]) + self.ready
        self.pending += non_empty(flight[flight.last])

    def _let_go(self) -> None:
        """Rows that wait to be verified leave; copies of another row take their places until the batch is packed."""
        active, present = [], []
        for flight, here in zip(self.active, self.here, strict=True):
            leaving = self._leaving(flight)
            if not bool(leaving.any()):
                active.append(flight)
                present.append(here)
                continue
            self.pending += non_empty(flight[leaving & here])
            left = here & ~leaving
            if bool(left.any()):
                row = torch.arange(len(flight), device=left.device)
                active.append(flight[torch.where(left, row, row[left][0])])
                present.append(left)
        self.active, self.here, self.present = active, present, sum(int(here.sum()) for here in present)

    def _worth_packing(self) -> bool:
        """Whether enough places are free: packing copies all rows, so it waits until it saves more than it costs."""
        enough = max(1, min(self.rows, self.shape) // 8) if self.present else 1
        computed = count(self.active)
        return self.lanes.padded_size(self.present) < computed - computed // 8 or (
            bool(self.ready) and self.rows - self.present >= enough
        )

    def _pack(self) -> None:
        """Put the rows that are left and ready ones into as few chunks as can be."""
        flights = [flight[here] for flight, here in zip(self.active, self.here, strict=True)]
        room = self.rows - self.present
        if self.ready and room > 0:
            queue = SearchState.concatenate(self.ready)
            flights, self.ready = [*flights, queue[:room]], non_empty(queue[room:])
        flights = [flight for flight in flights if len(flight)]
        self.active, self.here, self.present = [], [], count(flights)
        if flights:
            batch = SearchState.concatenate(flights)
            chunks, size = self.lanes.chunks(batch)
            self.here = [torch.arange(size, device=self.lanes.device) < len(chunk) for chunk in chunks]
            self.active = [chunk.padded(size) for chunk in chunks]

    def _leaving(self, flight: SearchState) -> Tensor:
        """Which rows wait to be verified."""
        return flight.last | torch.isfinite(flight.candidate_norm) & self._is_time(flight)

    def _is_time(self, flight: SearchState) -> Tensor:
        """Whether a candidate is to be verified now: by the row's own clock, lest its company show in the costs."""
        often = flight.age % VERIFY_EVERY == 0 if self.attack.minimum_norm else torch.ones_like(flight.last)
        return often | flight.state.done

    def _begin(self, samples: Batch) -> tuple[SearchState, AttackResult]:
        """Judge at most ``shape`` clean images: first rows of those classified right, findings of the mistakes."""
        flight = self.lanes.map(self._first_rows, samples.to(self.lanes.device))
        return flight[~flight.last], self._findings(flight[flight.last])

    def _first_rows(self, executor: Executor, samples: Batch) -> SearchState:
        """A chunk; those classified wrong need no search."""
        x, y, sample = samples.x, samples.y, samples.sample
        clean = judge(executor, x, y)
        wrong = clean.prediction != y
        zero, far = torch.zeros_like(y), torch.full(y.shape, torch.inf, dtype=torch.float64, device=y.device)
        return SearchState(
            state=self.attack.start(x, y, clean.logits, Draw.of(self.stream, sample)),
            sample=sample,
            clean_prediction=clean.prediction,
            age=zero,
            forwards=zero + repeats(executor),
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
            refused=zero,
        )

    def _advance(self, executor: Executor, flight: SearchState) -> SearchState:
        """One iteration of a chunk. Rows that wait for the next look stay as they are."""
        asked = self._iterate(executor, flight)
        if self.patience == 1:
            return asked
        leaving = self._leaving(flight)
        return flight.where(leaving, asked) if any_row(leaving) else asked

    def _iterate(self, executor: Executor, flight: SearchState) -> SearchState:
        state, gradient, backwards, zero_gradient = flight.state, None, flight.backwards, flight.zero_gradient
        queries, objective = self.attack.ask(state)
        wanted = self.sparing.wants_gradient(state) if self.sparing else None
        if objective is None or (wanted is not None and not any_row(wanted)):
            logits = executor.searched_logits(queries)
        else:
            logits, gradient = executor.logits_and_gradient(queries, objective)
            first = backwards == 0 if wanted is None else wanted & (backwards == 0)
            if any_row(first):
                zero_gradient = zero_gradient | (first & (gradient == 0).flatten(1).all(1))
            backwards = backwards + (1 if wanted is None else wanted)
        misclassified = logits.argmax(1) != state.y
        flight = replace(
            flight,
            state=self.attack.tell(state, logits, gradient, misclassified),
            age=flight.age + 1,
            forwards=flight.forwards + 1,
            backwards=backwards,
            zero_gradient=zero_gradient,
        )
        if any_row(misclassified):
            distance = self._distance(state.x, queries)
            nearer = misclassified & (distance < torch.minimum(flight.candidate_norm, flight.best_norm))
            if any_row(nearer):
                flight = propose(flight, nearer, queries, distance)
        return self._finish(flight)

    def _finish(self, flight: SearchState) -> SearchState:
        """Rows whose search has ended and that have nothing left to verify propose their last image."""
        ending = flight.state.done & ~flight.last & torch.isinf(flight.candidate_norm)
        if not any_row(ending):
            return flight
        queries, _ = self.attack.ask(flight.state)
        flight = replace(flight, last=flight.last | ending)
        return propose(flight, ending, queries, self._distance(flight.state.x, queries))

    def _verify(self, flight: SearchState) -> tuple[SearchState, AttackResult]:
        """Judge the candidates: rows that go on, findings of those that end."""
        before = flight
        flight = self.lanes.map(self._judge, flight)
        ended = before.last  # as of before: a row may propose its last image only now
        if not self.attack.minimum_norm:
            ended = ended | flight.inside
        stays = ~ended
        if self.exact is not None:
            refused = stays & torch.isfinite(before.candidate_norm) & (flight.best_norm == before.best_norm)
            self.exact._return(flight[refused])
            stays = stays & ~refused
        return flight[stays], self._findings(flight[ended])

    def _judge(self, executor: Executor, flight: SearchState) -> SearchState:
        """A chunk: a candidate that fools the model, is allowed and is nearer becomes the best image."""
        judged = judge(executor, flight.candidate, flight.state.y)
        distance = self._distance(flight.state.x, flight.candidate)
        misled = judged.prediction != flight.state.y
        success = misled & (distance < flight.best_norm)
        inside = self.attack.threat.contains(flight.state.x, flight.candidate, distance)
        shown = success | torch.isinf(flight.best_norm)
        claimed = torch.isfinite(flight.candidate_norm) & ~flight.last & ~misled
        outside = flight.last & misled & torch.isinf(distance)  # the last image misleads the model from outside
        flight = replace(
            flight,
            forwards=flight.forwards + repeats(executor),
            candidate_norm=torch.full_like(flight.candidate_norm, torch.inf),
            best=torch.where(success[:, None, None, None], flight.candidate, flight.best),
            best_norm=torch.where(success, distance, flight.best_norm),
            inside=torch.where(success, inside, flight.inside),
            prediction=torch.where(success, judged.prediction, flight.prediction),
            margin=torch.where(shown, judged.margin, flight.margin),
            borderline=torch.where(shown, judged.borderline, flight.borderline),
            refused=flight.refused + (claimed | outside),
        )
        return self._finish(flight)

    def _distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Distance in the norm; inf for what is forbidden (a minimum-norm search may leave eps, but not the box)."""
        threat = self.attack.threat
        if self.attack.minimum_norm:
            threat = replace(threat, eps=torch.inf)
        elif not any_row(threat.may_contain(x, x_adv)):
            return torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        distance = threat.distance(x, x_adv)
        return distance.masked_fill(~threat.contains(x, x_adv, distance), torch.inf)

    def _findings(self, flight: SearchState) -> AttackResult:
        success = flight.inside
        return AttackResult(
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
            stage=torch.zeros_like(flight.sample),
            refused=flight.refused,
            x_adv=torch.where(success[:, None, None, None], flight.best, flight.state.x),
        ).to("cpu")
