"""Scheduler of one stage: keeps the batch full, verifies candidates, and counts the cost of each row."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from advdpnp.attacks.criteria import MISCLASSIFIED, criterion_of
from advdpnp.attacks.engine import attack_calls
from advdpnp.attacks.engine.executor import Executor
from advdpnp.attacks.engine.replicas import ModelReplicas
from advdpnp.attacks.engine.verification import answer, decide, judge, price_of_a_step, repeats
from advdpnp.attacks.losses import fill_lost
from advdpnp.attacks.protocol import Attack, PeriodicGradient
from advdpnp.attacks.rows import Batch, any_row, count, non_empty
from advdpnp.attacks.search_copy.make import is_same_function
from advdpnp.attacks.search_state import AttackResult, SearchState, propose
from advdpnp.base.devices import widest_float
from advdpnp.base.randomness import Draw, seed_of

VERIFY_EVERY = 100
"""Iterations between verifications of a minimum-norm row's nearest image. It is also verified at the end."""

SYNC_EVERY = {"cpu": 1}
"""Iterations between checks for finished rows. Checks are rarer on other devices, where they make the host wait."""
_SYNC_EVERY_ELSEWHERE = 8


class Scheduler:
    """Runs one attack. Every call of the attack and of the model has one of the replicas' batch sizes.

    Args:
        attack: attack of this stage.
        replicas: replicas of the model.
        seed: seed of the evaluation.
        max_active: largest number of active rows. None: ``replicas.width``.
        exact: scheduler in float32 that continues with rows whose claim, in low precision, failed verification.
        budget: forwards and backwards that an image may cost at most, earlier stages included. None: no limit.
    """

    def __init__(
        self,
        attack: Attack,
        replicas: ModelReplicas,
        seed: int,
        max_active: int | None,
        exact: "Scheduler | None" = None,
        budget: int | None = None,
    ) -> None:
        self.attack, self.replicas, self.seed = attack, replicas, seed
        self.criterion = criterion_of(attack)
        self.wide = widest_float(replicas.device)
        self.static_batch_size, self.max_active = replicas.static_batch_size, max_active or replicas.width
        self.periodic = attack if isinstance(attack, PeriodicGradient) and replicas.forwards_agree() else None
        gradient_period = self.periodic.gradient_period if self.periodic else 1
        self.sync_every = math.lcm(SYNC_EVERY.get(replicas.device.type, _SYNC_EVERY_ELSEWHERE), gradient_period)
        self.stream = seed_of(seed, attack.name)
        self.waiting: deque[Batch] = deque()
        self.ready: list[SearchState] = []  # ready to search: new rows, and rows whose candidate was rejected
        self.active: list[SearchState] = []  # in every iteration; padded chunks
        self.active_mask: list[Tensor] = []  # rows of each chunk that are active; the others are padding
        self.n_active = 0
        self.iteration = 0
        self.pending: list[SearchState] = []  # wait for verification, outside the batch
        self.exact, self.budget, self.spent = exact, budget, dict[int, int]()

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
        rows = self._initial_state(executor, samples.to(self.replicas.device))
        queries, _ = attack_calls.ask(self.attack, rows.state, rows.x)
        return is_same_function(executor.searched, executor.model, queries.contiguous())

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
        for rows, mask in zip(self.active, self.active_mask, strict=True):
            costs.append((rows.forwards + rows.backwards)[mask])
        samples = sum(map(len, costs)) + (count(self.waiting) if waiting else 0)
        return samples, sum(int(cost.sum()) for cost in costs)

    def step(self) -> Iterator[AttackResult]:
        """Run one iteration of the active rows, after finished rows were verified and new rows started."""
        syncing = self.iteration % self.sync_every == 0  # rows enter and leave only now, which keeps them in phase
        if syncing:
            self._retire()
        while self.waiting and count(self.ready) + self.n_active < self.max_active:
            started, ended = self._begin(self.waiting.popleft())
            yield from non_empty(ended)
            self.ready += non_empty(started)
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
        """Continue rows whose candidate was rejected. Rows with only their last image left wait for verification."""
        self.ready = non_empty(rows[~rows.last]) + self.ready
        self.pending += non_empty(rows[rows.last])

    def _retire(self) -> None:
        """Remove rows that wait for verification. Copies of another row pad their chunk until the next repacking."""
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
        """Whether enough slots are free. Repacking copies all rows, so it must save more than it costs."""
        enough = max(1, min(self.max_active, self.static_batch_size) // 8) if self.n_active else 1
        computed = count(self.active)
        return self.replicas.padded_size(self.n_active) < computed - computed // 8 or (
            bool(self.ready) and self.max_active - self.n_active >= enough
        )

    def _repack(self) -> None:
        """Put the active and the ready rows into as few chunks as possible."""
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
        """Rows whose candidate must be verified now, bool (n,)."""
        return rows.last | torch.isfinite(rows.candidate_norm) & self._is_time(rows)

    def _is_time(self, rows: SearchState) -> Tensor:
        """Rows that are due for verification. It depends on the row's own age, so its cost is independent of others."""
        due = rows.age % VERIFY_EVERY == 0 if self.attack.minimum_norm else torch.ones_like(rows.last)
        return due | rows.state.done

    def _begin(self, samples: Batch) -> tuple[SearchState, AttackResult]:
        """Evaluate a batch of clean images. Returns new rows, and the results of those that are successes."""
        rows = self.replicas.map(self._initial_state, samples.to(self.replicas.device))
        if self.budget is not None:
            left = [self.budget - self.spent.pop(sample, 0) for sample in samples.sample.tolist()]
            rows = replace(rows, allowance=torch.tensor(left, device=self.replicas.device))
        return rows[~rows.last], self._result(rows[rows.last])

    def _initial_state(self, executor: Executor, samples: Batch) -> SearchState:
        """New rows of a chunk. Clean images that are successes are already finished."""
        x, y, sample = samples.x, samples.y, samples.sample
        runs = answer(executor, x, y)
        goal = self.criterion.goal(runs.mean(0), y, sample, self.seed)
        clean = decide(runs, goal, self.criterion)
        found = self.criterion.met(clean.prediction, goal)
        zero, infinite = torch.zeros_like(y), torch.full(y.shape, torch.inf, dtype=self.wide, device=y.device)
        return SearchState(
            state=attack_calls.start(self.attack, x.clone(), goal.clone(), clean.logits, Draw.of(self.stream, sample)),
            x=x,
            goal=goal,
            sample=sample,
            label=y,
            clean_prediction=decide(runs, y, MISCLASSIFIED).prediction,
            allowance=zero,
            age=zero,
            forwards=zero + repeats(executor),
            backwards=zero,
            zero_gradient=torch.zeros_like(found),
            candidate=x,
            candidate_norm=infinite,
            last=found,
            best=x,
            best_norm=infinite.masked_fill(found, 0.0),
            inside=found,
            prediction=clean.prediction,
            margin=clean.margin,
            borderline=clean.borderline,
            refused=zero,
        )

    def _step_chunk(self, executor: Executor, rows: SearchState) -> SearchState:
        """One iteration of a chunk. Finished rows do not change until the next sync."""
        next_rows = self._iterate(executor, rows)
        if self.budget is not None:
            next_rows = self._within_budget(executor, next_rows)
        if self.sync_every == 1:
            return next_rows
        leaving = self._leaving(rows)
        return rows.where(leaving, next_rows) if any_row(leaving) else next_rows

    def _within_budget(self, executor: Executor, rows: SearchState) -> SearchState:
        """End the search of rows that cannot afford another step."""
        ended = rows.forwards + rows.backwards + price_of_a_step(repeats(executor)) > rows.allowance
        return self._finish(replace(rows, state=replace(rows.state, done=rows.state.done | ended)))

    def _iterate(self, executor: Executor, rows: SearchState) -> SearchState:
        state, gradient, backwards, zero_gradient = rows.state, None, rows.backwards, rows.zero_gradient
        queries, objective = attack_calls.ask(self.attack, state, rows.x)
        needs_gradient = self.periodic.wants_gradient(state) if self.periodic else None
        if objective is None or (needs_gradient is not None and not any_row(needs_gradient)):
            with attack_calls.querying(self.attack, queries):
                logits = executor.searched_logits(queries)
        else:
            with attack_calls.querying(self.attack, queries):
                logits, gradient = executor.logits_and_gradient(queries, objective)
            first = backwards == 0 if needs_gradient is None else needs_gradient & (backwards == 0)
            if any_row(first):
                zero_gradient = zero_gradient | (first & (gradient == 0).flatten(1).all(1))
            backwards = backwards + (1 if needs_gradient is None else needs_gradient)
        logits = fill_lost(logits, rows.goal)
        found = self.criterion.met(logits.argmax(1), rows.goal)
        if any_row(found):  # before the attack is told, which may write into the images that it asked about
            distance = self._distance(rows.x, queries)
            nearer = found & (distance < torch.minimum(rows.candidate_norm, rows.best_norm))
            if any_row(nearer):
                rows = propose(rows, nearer, queries, distance)
        rows = replace(
            rows,
            state=attack_calls.tell(self.attack, state, logits, gradient, found),
            age=rows.age + 1,
            forwards=rows.forwards + 1,
            backwards=backwards,
            zero_gradient=zero_gradient,
        )
        return self._finish(rows)

    def _finish(self, rows: SearchState) -> SearchState:
        """Rows whose search is done and that have no candidate propose their last image."""
        ending = rows.state.done & ~rows.last & torch.isinf(rows.candidate_norm)
        if not any_row(ending):
            return rows
        queries, _ = attack_calls.ask(self.attack, rows.state, rows.x)
        rows = replace(rows, last=rows.last | ending)
        return propose(rows, ending, queries, self._distance(rows.x, queries))

    def _verify(self, rows: SearchState) -> tuple[SearchState, AttackResult]:
        """Verify the candidates. Returns the rows that continue, and the results of those that end."""
        attack_calls.check_unchanged(self.attack, rows.state, rows.x, rows.goal)
        before = rows
        rows = self.replicas.map(self._judge, rows)
        ended = before.last  # from before verification, as rejected rows propose their last image in it
        if not self.attack.minimum_norm:
            ended = ended | rows.inside
        stays = ~ended
        if self.exact is not None:
            rejected = stays & torch.isfinite(before.candidate_norm) & (rows.best_norm == before.best_norm)
            self.exact._requeue(rows[rejected])
            stays = stays & ~rejected
        return rows[stays], self._result(rows[ended])

    def _judge(self, executor: Executor, rows: SearchState) -> SearchState:
        """Verify a chunk. A successful candidate within the limits becomes ``best`` if it is nearer."""
        judged = judge(executor, rows.candidate, rows.goal, self.criterion)
        distance = self._distance(rows.x, rows.candidate)
        found = self.criterion.met(judged.prediction, rows.goal)
        success = found & (distance < rows.best_norm)
        inside = self.attack.threat.contains(rows.x, rows.candidate, distance)
        reported = success | torch.isinf(rows.best_norm)
        claimed = torch.isfinite(rows.candidate_norm) & ~rows.last & ~found
        outside = rows.last & torch.isinf(distance)  # the last image is outside the threat model
        best_norm = torch.where(success, distance, rows.best_norm)
        if not self.attack.minimum_norm and any_row(outside):  # its distance tells how far outside
            best_norm = torch.where(outside, self.attack.threat.distance(rows.x, rows.candidate), best_norm)
        rows = replace(
            rows,
            forwards=rows.forwards + repeats(executor),
            candidate_norm=torch.full_like(rows.candidate_norm, torch.inf),
            best=torch.where(success[:, None, None, None], rows.candidate, rows.best),
            best_norm=best_norm,
            inside=torch.where(success, inside, rows.inside),
            prediction=torch.where(success, judged.prediction, rows.prediction),
            margin=torch.where(reported, judged.margin, rows.margin),
            borderline=torch.where(reported, judged.borderline, rows.borderline),
            refused=rows.refused + (claimed | outside),
        )
        return self._finish(rows)

    def _distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Distance per row, float64 (n,); inf outside the threat model. Minimum-norm attacks may exceed eps."""
        threat = self.attack.threat
        if self.attack.minimum_norm:
            threat = replace(threat, eps=torch.inf)
        elif not any_row(threat.may_contain(x, x_adv)):
            return torch.full((len(x),), torch.inf, dtype=self.wide, device=x.device)
        distance = threat.distance(x, x_adv)
        return distance.masked_fill(~threat.contains(x, x_adv, distance), torch.inf)

    def _result(self, rows: SearchState) -> AttackResult:
        success = rows.inside
        clean = AttackResult.of_clean(
            Batch(rows.x, rows.label, rows.sample),
            prediction=rows.clean_prediction,
            margin=rows.margin,
            borderline=rows.borderline,
            forwards=rows.forwards,
        )
        found = replace(
            clean,
            adversarial_prediction=torch.where(success, rows.prediction, rows.clean_prediction),
            success=success,
            norm=rows.best_norm,
            backwards=rows.backwards,
            zero_gradient=rows.zero_gradient,
            refused=rows.refused,
            x_adv=torch.where(success[:, None, None, None], rows.best, rows.x),
        ).to("cpu")
        return replace(found, norm=found.norm.double())
