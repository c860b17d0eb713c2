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
from advdpnp.attacks.protocol import Attack, PeriodicGradient
from advdpnp.attacks.rows import Batch, any_row, count, non_empty
from advdpnp.attacks.search_copy.make import is_same_function
from advdpnp.attacks.search_state import AttackResult, SearchState, propose
from advdpnp.base.randomness import Draw, seed_of

VERIFY_EVERY = 100
"""Minimum-norm rows have the nearest image so far verified after this many iterations each time, and at their end."""

SYNC_EVERY = {"cpu": 1}
"""Iterations between checks for ended rows. On other devices the host would wait at each check."""
_SYNC_EVERY_ELSEWHERE = 8


class Scheduler:
    """Runs one attack; every call of the attack and of the model has a batch size of the replicas."""

    def __init__(
        self,
        attack: Attack,
        replicas: ModelReplicas,
        seed: int,
        max_active: int | None,
        exact: "Scheduler | None" = None,
    ) -> None:
        self.attack, self.replicas = attack, replicas
        self.static_batch_size, self.max_active = replicas.static_batch_size, max_active or replicas.width
        self.periodic = attack if isinstance(attack, PeriodicGradient) and replicas.forwards_agree() else None
        gradient_period = self.periodic.gradient_period if self.periodic else 1
        self.sync_every = math.lcm(SYNC_EVERY.get(replicas.device.type, _SYNC_EVERY_ELSEWHERE), gradient_period)
        self.stream = seed_of(seed, attack.name)
        self.waiting: deque[Batch] = deque()
        self.ready: list[SearchState] = []  # can be asked: new rows, and those whose candidate was refused
        self.active: list[SearchState] = []  # asked in every iteration; full chunks
        self.active_mask: list[Tensor] = []  # which rows of each chunk have not left; the others are padding
        self.n_active = 0  # how many
        self.iteration = 0
        self.pending: list[SearchState] = []  # wait to be verified, out of the batch meanwhile
        self.exact = (
            exact  # continues in float32 with rows whose claimed success, at low precision, failed verification
        )

    def feed(self, samples: Batch) -> None:
        """More samples to attack."""
        pieces = [samples[i : i + self.static_batch_size] for i in range(0, len(samples), self.static_batch_size)]
        if self.waiting and pieces and len(self.waiting[-1]) + len(pieces[0]) <= self.static_batch_size:
            pieces[0] = Batch.concatenate([self.waiting.pop(), pieces[0]])
        self.waiting.extend(pieces)

    def copy_agrees(self, samples: Batch) -> bool:
        """Whether the model's search copy, if any, is the same function on the attack's first queries for samples."""
        executor = self.replicas.first
        if executor.searched is executor.model or not len(samples):
            return True
        rows = self._initial_state(executor, samples.to(self.replicas.device))
        queries, _ = self.attack.ask(rows.state)
        return is_same_function(executor.searched, executor.model, queries.contiguous())

    @property
    def busy(self) -> bool:
        """Whether any sample is left."""
        return bool(self.waiting or self.ready or self.n_active or self.pending)

    @property
    def full(self) -> bool:
        """Whether the samples at hand fill a batch."""
        return count([*self.waiting, *self.ready]) + self.n_active >= self.max_active

    def step(self) -> Iterator[AttackResult]:
        """One iteration of the active rows, and what must go before it: new rows begin, ended ones are verified."""
        syncing = self.iteration % self.sync_every == 0  # rows come and go only now, which keeps them in step
        if syncing:
            self._retire()
        while self.waiting and count(self.ready) + self.n_active < self.max_active:
            begun, ended = self._begin(self.waiting.popleft())
            yield from non_empty(ended)
            self.ready += non_empty(begun)
        if count(self.pending) >= self.static_batch_size or (self.pending and not self.n_active and not self.ready):
            kept, ended = self._verify(SearchState.concatenate(self.pending))
            yield from non_empty(ended)
            self.pending = []
            self._requeue(kept)
        if syncing and self._worth_repacking():
            self._repack()
        if self.n_active:
            self.active = self.replicas.map_chunks(self._step_chunk, self.active)
        self.iteration += 1

    def _requeue(self, rows: SearchState) -> None:
        """Rows go on after their candidate was refused; those whose last image is all that is left wait once more."""
        self.ready = non_empty(rows[~rows.last]) + self.ready
        self.pending += non_empty(rows[rows.last])

    def _retire(self) -> None:
        """Rows that wait to be verified leave; copies of another row take their places until the batch is packed."""
        active, present = [], []
        for rows, mask in zip(self.active, self.active_mask, strict=True):
            leaving = self._leaving(rows)
            if not bool(leaving.any()):
                active.append(rows)
                present.append(mask)
                continue
            self.pending += non_empty(rows[leaving & mask])
            left = mask & ~leaving
            if bool(left.any()):
                row = torch.arange(len(rows), device=left.device)
                active.append(rows[torch.where(left, row, row[left][0])])
                present.append(left)
        self.active, self.active_mask, self.n_active = active, present, sum(int(mask.sum()) for mask in present)

    def _worth_repacking(self) -> bool:
        """Whether enough places are free: packing copies all rows, so it waits until it saves more than it costs."""
        enough = max(1, min(self.max_active, self.static_batch_size) // 8) if self.n_active else 1
        computed = count(self.active)
        return self.replicas.padded_size(self.n_active) < computed - computed // 8 or (
            bool(self.ready) and self.max_active - self.n_active >= enough
        )

    def _repack(self) -> None:
        """Put the rows that are left and ready ones into as few chunks as can be."""
        chunks = [rows[mask] for rows, mask in zip(self.active, self.active_mask, strict=True)]
        room = self.max_active - self.n_active
        if self.ready and room > 0:
            queue = SearchState.concatenate(self.ready)
            chunks, self.ready = [*chunks, queue[:room]], non_empty(queue[room:])
        chunks = [rows for rows in chunks if len(rows)]
        self.active, self.active_mask, self.n_active = [], [], count(chunks)
        if chunks:
            batch = SearchState.concatenate(chunks)
            chunks, size = self.replicas.chunks(batch)
            self.active_mask = [torch.arange(size, device=self.replicas.device) < len(chunk) for chunk in chunks]
            self.active = [chunk.padded(size) for chunk in chunks]

    def _leaving(self, rows: SearchState) -> Tensor:
        """Which rows wait to be verified."""
        return rows.last | torch.isfinite(rows.candidate_norm) & self._is_time(rows)

    def _is_time(self, rows: SearchState) -> Tensor:
        """Whether to verify a candidate now. It depends on the row's own age, so costs do not depend on other rows."""
        often = rows.age % VERIFY_EVERY == 0 if self.attack.minimum_norm else torch.ones_like(rows.last)
        return often | rows.state.done

    def _begin(self, samples: Batch) -> tuple[SearchState, AttackResult]:
        """Judge one batch of clean images: first rows of those classified right, results of the mistakes."""
        rows = self.replicas.map(self._initial_state, samples.to(self.replicas.device))
        return rows[~rows.last], self._result(rows[rows.last])

    def _initial_state(self, executor: Executor, samples: Batch) -> SearchState:
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

    def _step_chunk(self, executor: Executor, rows: SearchState) -> SearchState:
        """One iteration of a chunk. Rows that have ended stay as they are until the next sync."""
        asked = self._iterate(executor, rows)
        if self.sync_every == 1:
            return asked
        leaving = self._leaving(rows)
        return rows.where(leaving, asked) if any_row(leaving) else asked

    def _iterate(self, executor: Executor, rows: SearchState) -> SearchState:
        state, gradient, backwards, zero_gradient = rows.state, None, rows.backwards, rows.zero_gradient
        queries, objective = self.attack.ask(state)
        wanted = self.periodic.wants_gradient(state) if self.periodic else None
        if objective is None or (wanted is not None and not any_row(wanted)):
            logits = executor.searched_logits(queries)
        else:
            logits, gradient = executor.logits_and_gradient(queries, objective)
            first = backwards == 0 if wanted is None else wanted & (backwards == 0)
            if any_row(first):
                zero_gradient = zero_gradient | (first & (gradient == 0).flatten(1).all(1))
            backwards = backwards + (1 if wanted is None else wanted)
        misclassified = logits.argmax(1) != state.y
        rows = replace(
            rows,
            state=self.attack.tell(state, logits, gradient, misclassified),
            age=rows.age + 1,
            forwards=rows.forwards + 1,
            backwards=backwards,
            zero_gradient=zero_gradient,
        )
        if any_row(misclassified):
            distance = self._distance(state.x, queries)
            nearer = misclassified & (distance < torch.minimum(rows.candidate_norm, rows.best_norm))
            if any_row(nearer):
                rows = propose(rows, nearer, queries, distance)
        return self._finish(rows)

    def _finish(self, rows: SearchState) -> SearchState:
        """Rows whose search has ended and that have nothing left to verify propose their last image."""
        ending = rows.state.done & ~rows.last & torch.isinf(rows.candidate_norm)
        if not any_row(ending):
            return rows
        queries, _ = self.attack.ask(rows.state)
        rows = replace(rows, last=rows.last | ending)
        return propose(rows, ending, queries, self._distance(rows.state.x, queries))

    def _verify(self, rows: SearchState) -> tuple[SearchState, AttackResult]:
        """Judge the candidates: rows that go on, findings of those that end."""
        before = rows
        rows = self.replicas.map(self._judge, rows)
        ended = before.last  # as of before: a row may propose its last image only now
        if not self.attack.minimum_norm:
            ended = ended | rows.inside
        stays = ~ended
        if self.exact is not None:
            refused = stays & torch.isfinite(before.candidate_norm) & (rows.best_norm == before.best_norm)
            self.exact._requeue(rows[refused])
            stays = stays & ~refused
        return rows[stays], self._result(rows[ended])

    def _judge(self, executor: Executor, rows: SearchState) -> SearchState:
        """A chunk: a candidate that fools the model, is allowed and is nearer becomes the best image."""
        judged = judge(executor, rows.candidate, rows.state.y)
        distance = self._distance(rows.state.x, rows.candidate)
        misled = judged.prediction != rows.state.y
        success = misled & (distance < rows.best_norm)
        inside = self.attack.threat.contains(rows.state.x, rows.candidate, distance)
        shown = success | torch.isinf(rows.best_norm)
        claimed = torch.isfinite(rows.candidate_norm) & ~rows.last & ~misled
        outside = rows.last & misled & torch.isinf(distance)  # the last image misleads the model from outside
        rows = replace(
            rows,
            forwards=rows.forwards + repeats(executor),
            candidate_norm=torch.full_like(rows.candidate_norm, torch.inf),
            best=torch.where(success[:, None, None, None], rows.candidate, rows.best),
            best_norm=torch.where(success, distance, rows.best_norm),
            inside=torch.where(success, inside, rows.inside),
            prediction=torch.where(success, judged.prediction, rows.prediction),
            margin=torch.where(shown, judged.margin, rows.margin),
            borderline=torch.where(shown, judged.borderline, rows.borderline),
            refused=rows.refused + (claimed | outside),
        )
        return self._finish(rows)

    def _distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Distance in the norm; inf for what is forbidden (a minimum-norm search may leave eps, but not the box)."""
        threat = self.attack.threat
        if self.attack.minimum_norm:
            threat = replace(threat, eps=torch.inf)
        elif not any_row(threat.may_contain(x, x_adv)):
            return torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        distance = threat.distance(x, x_adv)
        return distance.masked_fill(~threat.contains(x, x_adv, distance), torch.inf)

    def _result(self, rows: SearchState) -> AttackResult:
        success = rows.inside
        clean = AttackResult.of_clean(
            Batch(rows.state.x, rows.state.y, rows.sample),
            prediction=rows.clean_prediction,
            margin=rows.margin,
            borderline=rows.borderline,
            forwards=rows.forwards,
        )
        return replace(
            clean,
            adversarial_prediction=torch.where(success, rows.prediction, rows.clean_prediction),
            success=success,
            norm=rows.best_norm,
            backwards=rows.backwards,
            zero_gradient=rows.zero_gradient,
            refused=rows.refused,
            x_adv=torch.where(success[:, None, None, None], rows.best, rows.state.x),
        ).to("cpu")
