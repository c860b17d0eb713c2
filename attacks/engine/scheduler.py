"""Scheduler of one stage: keeps the batch full, verifies candidates, and counts the cost of each row."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from advdpnp.attacks.engine import attack_calls
from advdpnp.attacks.engine.executor import Executor
from advdpnp.attacks.engine.iteration import Chunk, Iteration
from advdpnp.attacks.engine.replicas import ModelReplicas
from advdpnp.attacks.protocol import Attack, PeriodicGradient, Preparing
from advdpnp.attacks.rows import Batch, any_row, count, non_empty
from advdpnp.attacks.search_copy.low_precision import resembles
from advdpnp.attacks.search_copy.make import is_same_function
from advdpnp.attacks.search_state import AttackResult, SearchState

LOOK_EVERY = {"cpu": 1}
"""Iterations between two looks at what has stopped. They are rarer on other devices, where they make the host wait."""
_LOOK_EVERY_ELSEWHERE = 8


class Scheduler:
    """Runs one attack. Every call of the attack and of the model has one of the replicas' batch sizes.

    Rows enter and leave at looks only. Between two looks the host waits for nothing, and rows that have stopped stay as
    they are, so the looks change no result.

    Args:
        attack: attack of this stage.
        replicas: replicas of the model.
        seed: seed of the evaluation.
        max_active: largest number of active rows. None: ``replicas.width``.
        budget: forwards and backwards that an image may cost at most, earlier stages included. None: no limit.
        low: whether the replicas search in low precision; ``near`` then holds survivors that came near to a success.
    """

    def __init__(
        self,
        attack: Attack,
        replicas: ModelReplicas,
        seed: int,
        max_active: int | None,
        budget: int | None = None,
        low: bool = False,
    ) -> None:
        self.attack, self.replicas, self.low, self.near = attack, replicas, low, set[int]()
        self.budget, self.spent = budget, dict[int, int]()
        self.static_batch_size, self.max_active = replicas.static_batch_size, max_active or replicas.width
        self.gradient_period = attack.gradient_period if isinstance(attack, PeriodicGradient) else 1
        self.look_every = math.lcm(LOOK_EVERY.get(replicas.device.type, _LOOK_EVERY_ELSEWHERE), self.gradient_period)
        self.prepared_for = attack.prepared_for if isinstance(attack, Preparing) else 0
        agree = self.gradient_period == 1 or replicas.forwards_agree()
        self.iteration = Iteration(
            attack, seed, replicas.device,
            stops=self.look_every > 1, queries_agree=agree, limited=budget is not None, low=low,
        )  # fmt: skip
        self.waiting: deque[Batch] = deque()
        self.ready: list[SearchState] = []  # ready to search: new rows, and rows whose candidate was rejected
        self.active: list[Chunk] = []  # in every iteration
        self.places: list[list[int]] = []  # of each chunk's active rows
        self.pending: list[SearchState] = []  # wait for verification, outside the batch
        self.since_prepared = 0
        self.in_phase = True  # whether gradients are needed in the first iteration of each period only
        self.first_gradients = True  # whether an active row may have had no gradient yet

    def feed(self, samples: Batch, spent: Tensor | None = None) -> None:
        """Add samples to attack; ``spent``, int64 (n,), is what each has cost in earlier stages."""
        if self.budget is not None and spent is not None:
            self.spent.update(zip(samples.sample.tolist(), spent.tolist(), strict=True))
        pieces = [samples[i : i + self.static_batch_size] for i in range(0, len(samples), self.static_batch_size)]
        if self.waiting and pieces and len(self.waiting[-1]) + len(pieces[0]) <= self.static_batch_size:
            pieces[0] = Batch.concatenate([self.waiting.pop(), pieces[0]])
        self.waiting.extend(pieces)

    def copy_agrees(self, samples: Batch) -> bool:
        """Whether the search copy, if any, is the same function as the model on the first queries for ``samples``."""
        executor = self.replicas.first
        if executor.searched is executor.model or not len(samples):
            return True
        rows = self.iteration.begin(executor, samples.to(self.replicas.device))
        queries, _ = attack_calls.ask(self.attack, rows.state, rows.x)
        return (resembles if self.low else is_same_function)(executor.searched, executor.model, queries.contiguous())

    @property
    def n_active(self) -> int:
        """Number of active rows."""
        return sum(map(len, self.places))

    @property
    def busy(self) -> bool:
        """Whether any sample is unfinished."""
        return bool(self.waiting or self.ready or self.n_active or self.pending)

    @property
    def full(self) -> bool:
        """Whether there are enough rows to fill a batch."""
        return count([*self.waiting, *self.ready]) + self.n_active >= self.max_active

    def in_work(self, *, waiting: bool) -> tuple[int, int]:
        """Samples in this stage, with or without those that wait for it, and the evaluations they have cost in it."""
        costs = [rows.forwards + rows.backwards for rows in [*self.ready, *self.pending]]
        costs += [(chunk.rows.forwards + chunk.rows.backwards) * chunk.active for chunk in self.active]
        samples = count([*self.ready, *self.pending]) + self.n_active + (count(self.waiting) if waiting else 0)
        return samples, sum(int(cost.sum()) for cost in costs)

    def step(self) -> Iterator[AttackResult]:
        """Look at the rows, and run the iterations until the next look."""
        yield from self._look()
        if not self.n_active:
            return
        stretches, first = self._stretches(), self.first_gradients

        def work(executor: Executor, chunk: Chunk) -> Chunk:
            for prepares, gradients in stretches:
                chunk = self.iteration.prepare(chunk) if prepares else chunk
                step = partial(self.iteration.step, executor, first=first)
                chunk = executor.capture.run(step, (self.iteration, first), chunk, gradients)
            return chunk

        self.active = self.replicas.map_chunks(work, self.active, calls=self.look_every)

    def _stretches(self) -> list[tuple[bool, list[bool]]]:
        """The iterations until the next look: whether rows are prepared first, and which iterations take gradients."""
        found = list[tuple[bool, list[bool]]]()
        for number in range(self.look_every):
            prepares = self.prepared_for > 0 and self.since_prepared % self.prepared_for == 0
            if prepares or not found:
                found.append((prepares, []))
            found[-1][1].append(not self.in_phase or number % self.gradient_period == 0)
            self.since_prepared = 1 if prepares else self.since_prepared + 1
        return found

    def _look(self) -> Iterator[AttackResult]:
        """Take out rows that have stopped, verify candidates, and let rows that wait enter."""
        self._retire()
        while self.waiting and count(self.ready) + self.n_active < self.max_active:
            samples = self.waiting.popleft()
            rows = self.replicas.map(self.iteration.begin, samples.to(self.replicas.device))
            if self.budget is not None:
                left = [self.budget - self.spent.pop(sample, 0) for sample in samples.sample.tolist()]
                rows = replace(rows, allowance=torch.tensor(left, device=self.replicas.device))
            started, ended = rows.select(~rows.last, rows.last)
            yield from map(self._result, non_empty(ended))
            self.ready += non_empty(started)
        if count(self.pending) >= self.static_batch_size or (self.pending and not self.n_active and not self.ready):
            rows, self.pending = SearchState.concatenate(self.pending), []
            yield from self._verify(rows)
        if self._worth_repacking():
            self._repack()

    def _retire(self) -> None:
        """Take out rows that have stopped. They stay in their chunk as padding until the next repacking."""
        if not self.active or not any(map(self._worth_a_look, self.active)):
            return
        self.active = [self.iteration.measure(chunk) for chunk in self.active]
        read = torch.cat([self.iteration.flags(chunk) for chunk in self.active]).tolist()
        ends = torch.tensor([0, *(2 * len(chunk) + 3 for chunk in self.active)]).cumsum(0).tolist()
        kept = []
        self.first_gradients = False
        for chunk, places, (start, end) in zip(self.active, self.places, pairwise(ends), strict=True):
            flags, n = read[start:end], len(chunk)
            stopped, done, (ending, unseen, finite) = flags[:n], flags[n : 2 * n], flags[2 * n :]
            if not finite:
                raise attack_calls.queries_not_finite(self.attack)
            self.first_gradients |= unseen
            leaving = [place for place in places if stopped[place]]
            left = [place for place in places if not stopped[place]]
            if leaving:
                self.pending.append((self.iteration.finish(chunk.rows) if ending else chunk.rows).take(leaving))
            if left:
                kept.append((self._without(chunk, left, done) if len(left) < n else chunk, left))
        self.active, self.places = [chunk for chunk, _ in kept], [left for _, left in kept]

    def _worth_a_look(self, chunk: Chunk) -> bool:
        """Whether flags of a chunk have to be read: on a CPU, which looks after every iteration, mostly not."""
        if chunk.active.device.type != "cpu":
            return True
        return any_row(chunk.active & chunk.stopped(self.attack)) or (
            self.first_gradients and any_row(chunk.rows.backwards > 0)
        )

    def _without(self, chunk: Chunk, left: list[int], done: list[bool]) -> Chunk:
        """Only the rows in ``left`` are active. Copies replace the others as soon as the search of one is done."""
        present = set(left)
        active = torch.tensor([place in present for place in range(len(chunk))], device=self.replicas.device)
        if any(done[place] for place in range(len(chunk)) if place not in present):
            rows = chunk.rows.take([place if place in present else left[0] for place in range(len(chunk))])
            return Chunk(rows, active)
        return Chunk(chunk.rows, active)

    def _worth_repacking(self) -> bool:
        """Whether enough slots are free. Repacking copies all rows, so it must save more than it costs."""
        active = self.n_active
        enough = max(1, min(self.max_active, self.static_batch_size) // 8) if active else 1
        computed = count(self.active)
        return self.replicas.padded_size(active) < computed - computed // 8 or (
            bool(self.ready) and self.max_active - active >= enough
        )

    def _repack(self) -> None:
        """Put the active and the ready rows into as few chunks as possible."""
        parts = [chunk.rows.take(places) for chunk, places in zip(self.active, self.places, strict=True)]
        room = self.max_active - self.n_active
        if self.ready and room > 0:
            queue = SearchState.concatenate(self.ready)
            parts, self.ready = [*parts, queue[:room]], non_empty(queue[room:])
            self.first_gradients = True
        self.active, self.places, self.since_prepared = [], [], 0
        if parts:
            chunks, size = self.replicas.chunks(SearchState.concatenate(parts))
            place = torch.arange(size, device=self.replicas.device)
            self.active = [Chunk(chunk.padded(size), place < len(chunk)) for chunk in chunks]
            self.places = [list(range(len(chunk))) for chunk in chunks]
        if self.gradient_period > 1 and self.active:
            self.in_phase = all(torch.cat([self.iteration.in_phase(chunk) for chunk in self.active]).tolist())

    def _verify(self, rows: SearchState) -> Iterator[AttackResult]:
        """Verify the candidates. Yields the results of rows that end; the others continue."""
        attack_calls.check_unchanged(self.attack, rows.state, rows.x, rows.goal)
        ended = rows.last  # from before verification, as rejected rows propose their last image in it
        rows = self.replicas.map(self.iteration.judge, rows)
        if not self.attack.minimum_norm:
            ended = ended | rows.inside
        finished, continuing, last = rows.select(ended, ~ended & ~rows.last, ~ended & rows.last)
        self.ready = non_empty(continuing) + self.ready
        self.pending += non_empty(last)  # rows with only their last image left
        yield from map(self._result, non_empty(finished))

    def _result(self, rows: SearchState) -> AttackResult:
        if self.low:
            self.near.update(rows.sample[rows.near & ~rows.inside].tolist())
        return self.iteration.result(rows)
