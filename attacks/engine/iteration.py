"""What the engine does to rows: begin, iterate, propose and judge.

On an accelerator an iteration makes the host wait for nothing, and all its tensors keep their shapes. What a CPU skips
where no row needs it (``any_row``), an accelerator computes for all.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advdpnp.attacks.criteria import MISCLASSIFIED, criterion_of
from advdpnp.attacks.engine import attack_calls
from advdpnp.attacks.engine.executor import Executor
from advdpnp.attacks.engine.precision import near_within
from advdpnp.attacks.engine.verification import answer, decide, judge_twice, price_of_a_step, repeats
from advdpnp.attacks.losses import answered, margin
from advdpnp.attacks.protocol import Attack, PeriodicGradient
from advdpnp.attacks.rows import Batch, Rows, any_row, where_rows
from advdpnp.attacks.search_state import AttackResult, SearchState, propose
from advdpnp.base.devices import widest_float
from advdpnp.base.randomness import Draw, seed_of

NOT_MEASURED = -1.0
"""Distance of a candidate between the iteration that claims it and the next look."""

VERIFY_EVERY = 100
"""Iterations between verifications of a minimum-norm row's nearest image. It is also verified at the end."""


@dataclass(frozen=True)
class Chunk(Rows):
    """Rows that go through the model together.

    Attributes:
        rows: as many as the model takes.
        active: bool (n,). The others have left, or are copies that fill the chunk.
    """

    rows: SearchState
    active: Tensor

    def stopped(self, attack: Attack) -> Tensor:
        """Rows that wait for verification, bool (n,). It depends on a row alone, so its cost does, too."""
        claimed = self.rows.candidate_norm < torch.inf
        if attack.minimum_norm:
            claimed = claimed & (self.rows.age % VERIFY_EVERY == 0)
        return claimed | self.rows.state.done


class Iteration:
    """The steps of one attack.

    Args:
        attack: attack of the stage.
        seed: seed of the evaluation.
        device: device of the model.
        stops: whether rows are stopped between two looks. Without, every iteration is followed by a look.
        queries_agree: whether the model answers the same with and without gradients.
        limited: whether rows have an allowance.
        low: whether queries are answered in low precision. Then rows that come near to a success are marked.
    """

    def __init__(
        self, attack: Attack, seed: int, device: torch.device, *,
        stops: bool, queries_agree: bool, limited: bool, low: bool,
    ) -> None:  # fmt: skip
        self.attack, self.criterion, self.seed = attack, criterion_of(attack), seed
        self.periodic = attack if isinstance(attack, PeriodicGradient) else None
        # Others go on from successes outside eps; to wait there for a look would take them out of phase.
        self.measures_at_once = attack.minimum_norm or self.periodic is not None
        self.stream = seed_of(seed, attack.name)
        self.wide = widest_float(device)
        self.stops, self.queries_agree, self.limited, self.low = stops, queries_agree, limited, low

    def begin(self, executor: Executor, samples: Batch) -> SearchState:
        """New rows of a chunk. Clean images that are successes are already finished."""
        x, y, sample = samples.x, samples.y, samples.sample
        runs = answer(executor, x, y)
        goal = self.criterion.goal(runs.mean(0), y, sample, self.seed)
        clean = decide(runs, goal, self.criterion)
        found = self.criterion.met(clean.prediction, goal)
        tolerance = near_within(executor.searched_logits(x), clean.logits) if self.low else clean.margin  # not asked
        zero, infinite = torch.zeros_like(y), torch.full(y.shape, torch.inf, dtype=self.wide, device=y.device)
        state = attack_calls.start(self.attack, x.clone(), goal.clone(), clean.logits, Draw.of(self.stream, sample))
        return SearchState(
            state=attack_calls.prepare(self.attack, state),
            x=x,
            goal=goal,
            unanswered=torch.zeros_like(clean.logits).scatter_(1, goal[:, None], -1.0),
            sample=sample,
            label=y,
            clean_prediction=decide(runs, y, MISCLASSIFIED).prediction,
            allowance=zero,
            age=zero,
            judged=zero + repeats(executor) + self.low,
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
            parted=torch.zeros_like(found),
            near=torch.zeros_like(found) if self.low else found,
            tolerance=tolerance,
        )

    def prepare(self, chunk: Chunk) -> Chunk:
        """Let the attack prepare its states for the next iterations."""
        return replace(chunk, rows=replace(chunk.rows, state=attack_calls.prepare(self.attack, chunk.rows.state)))

    def in_phase(self, chunk: Chunk) -> Tensor:
        """Whether all active rows begin a period of gradients, bool (1,)."""
        if self.periodic is None:
            return chunk.active.new_ones(1)
        return (self.periodic.wants_gradient(chunk.rows.state) | ~chunk.active).all()[None]

    def step(self, executor: Executor, chunk: Chunk, with_gradient: bool, *, first: bool = True) -> Chunk:
        """One iteration of a chunk. Rows that have stopped do not change.

        Args:
            with_gradient: False in iterations that need none (see ``PeriodicGradient``).
            first: whether this may be the first gradient of a row. It spares operations, and changes nothing else.
        """
        rows, gradient, backwards, zero_gradient = chunk.rows, None, chunk.rows.backwards, chunk.rows.zero_gradient
        going = torch.gt(chunk.active, chunk.stopped(self.attack)) if self.stops else chunk.active
        queries, objective = attack_calls.ask(self.attack, rows.state, rows.x)
        if objective is None or not with_gradient:
            graph = objective is not None and not self.queries_agree
            logits = executor.searched_logits(queries, checked=False, with_graph=graph)
        else:
            logits, gradient = executor.logits_and_gradient(queries, objective, checked=False)
            wanting = going if self.periodic is None else going & self.periodic.wants_gradient(rows.state)
            if first:
                unseen = wanting & (backwards == 0)
                zero_gradient = zero_gradient | (unseen & (gradient == 0).flatten(1).all(1))
            backwards = backwards + wanting
        logits, gradient = self._filled(rows, queries, logits, gradient)
        found = self.criterion.met(logits.argmax(1), rows.goal)
        if self.low:
            rows = self._mark_near(rows, going, queries, logits)
        rows = self._claim(rows, found & going, queries)  # before the attack is told, which may write into the queries
        state = attack_calls.tell(self.attack, rows.state, logits, gradient, found)
        if self.stops:
            state = state.where(going, rows.state)
        rows = replace(rows, state=state, age=rows.age + going, backwards=backwards, zero_gradient=zero_gradient)
        return Chunk(self._within_allowance(executor, rows) if self.limited else rows, chunk.active)

    def _within_allowance(self, executor: Executor, rows: SearchState) -> SearchState:
        """End the search of rows that cannot afford another step."""
        ended = rows.forwards + rows.backwards + price_of_a_step(repeats(executor)) > rows.allowance
        return replace(rows, state=replace(rows.state, done=rows.state.done | ended))

    def _filled(
        self, rows: SearchState, queries: Tensor, logits: Tensor, gradient: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits and gradient that the attack can compute with, where the model has no answer, too."""
        has_answer = answered(logits)
        if logits.device.type == "cpu":
            if bool(has_answer.all()):
                return logits, gradient
            attack_calls.check_queries(self.attack, queries)
        filled = torch.where(has_answer, logits, rows.unanswered)
        return filled, None if gradient is None else gradient * has_answer[:, :, None, None]

    def flags(self, chunk: Chunk) -> Tensor:
        """What the host must know of a chunk, bool (2 n + 3,), to be read at once.

        By row: whether it has stopped, whether its search is done. Then whether ``finish`` changes any row, whether an
        active row has had no gradient yet, and whether the attack's queries are finite.
        """
        rows, finite = chunk.rows, chunk.active.new_ones(1)
        if finite.device.type != "cpu":  # on a CPU, every iteration that gives no answer checks its queries
            queries, _ = attack_calls.ask(self.attack, rows.state, rows.x)
            finite = torch.isfinite(queries.sum())[None]
        unseen = chunk.active & (rows.backwards == 0)
        ending = self.ending(rows).any()[None]
        return torch.cat([chunk.stopped(self.attack), rows.state.done, ending, unseen.any()[None], finite])

    def _claim(self, rows: SearchState, found: Tensor, queries: Tensor) -> SearchState:
        """Where ``found``, the query becomes the row's candidate; of a minimum-norm row, if it is nearer.

        A row that must keep to the eps-ball stops at its claim until the next look, which measures it.
        """
        if not any_row(found):
            return rows
        if not self.measures_at_once:
            candidate_norm = rows.candidate_norm.masked_fill(found, NOT_MEASURED)
            return replace(rows, candidate=where_rows(found, queries, rows.candidate), candidate_norm=candidate_norm)
        distance, allowed = self._measured(rows.x, queries)
        nearer = found & allowed
        if self.attack.minimum_norm:  # others stop at the first
            nearer = nearer & (distance < torch.minimum(rows.candidate_norm, rows.best_norm))
        return propose(rows, nearer, queries, distance) if any_row(nearer) else rows

    def measure(self, chunk: Chunk) -> Chunk:
        """Measure new candidates, at a look. Rows whose candidate is outside the threat model go on without it."""
        rows = chunk.rows
        new = rows.candidate_norm == NOT_MEASURED
        if self.measures_at_once or not any_row(new):
            return chunk
        distance = self._distance(rows.x, rows.candidate)
        return replace(chunk, rows=replace(rows, candidate_norm=torch.where(new, distance, rows.candidate_norm)))

    def _mark_near(self, rows: SearchState, going: Tensor, queries: Tensor, logits: Tensor) -> SearchState:
        """Mark rows whose query within the threat model is nearer to a success than low precision can tell."""
        reached = self.criterion.ascent(margin(logits, rows.goal))
        new = going & ~rows.near & (reached >= -rows.tolerance)
        if not any_row(new):
            return rows
        return replace(rows, near=rows.near | new & self._measured(rows.x, queries)[1])

    def finish(self, rows: SearchState) -> SearchState:
        """Rows whose search is done and that have no candidate propose their last image."""
        ending = self.ending(rows)
        if not any_row(ending):
            return rows
        queries, _ = attack_calls.ask(self.attack, rows.state, rows.x)
        rows = replace(rows, last=rows.last | ending)
        return propose(rows, ending, queries, self._distance(rows.x, queries))

    def ending(self, rows: SearchState) -> Tensor:
        """Rows that ``finish`` changes, bool (n,)."""
        return rows.state.done & ~rows.last & torch.isinf(rows.candidate_norm)

    def judge(self, executor: Executor, rows: SearchState) -> SearchState:
        """Verify a chunk. A successful candidate within the limits becomes ``best`` if it is nearer."""
        judged = judge_twice(executor, rows.candidate, rows.goal, self.criterion)
        distance = self._distance(rows.x, rows.candidate)
        found = self.criterion.met(judged.prediction, rows.goal)
        success = found & (distance < rows.best_norm)
        inside = self.attack.threat.contains(rows.x, rows.candidate, distance)
        reported = success | torch.isinf(rows.best_norm)
        claimed = torch.isfinite(rows.candidate_norm) & ~rows.last & ~found
        outside = rows.last & torch.isinf(distance)  # the last image is outside the threat model
        best_norm = torch.where(success, distance, rows.best_norm)
        if not self.attack.minimum_norm and any_row(outside):  # its distance tells how far outside
            how_far = self.attack.threat.distance(rows.x, rows.candidate)
            # One within eps that leaves the bounds has none: verdicts would read as if it were a success.
            told = outside & ~self.attack.threat.in_ball(how_far) & ~how_far.isnan()
            best_norm = torch.where(told, how_far, best_norm)
        rows = replace(
            rows,
            judged=rows.judged + repeats(executor),
            candidate_norm=torch.full_like(rows.candidate_norm, torch.inf),
            best=torch.where(success[:, None, None, None], rows.candidate, rows.best),
            best_norm=best_norm,
            inside=torch.where(success, inside, rows.inside),
            prediction=torch.where(success, judged.prediction, rows.prediction),
            margin=torch.where(reported, judged.margin, rows.margin),
            borderline=torch.where(reported, judged.borderline, rows.borderline),
            refused=rows.refused + (claimed | outside),
            parted=rows.parted | judged.parted,
        )
        return self.finish(rows)

    def _distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Distance per row, float64 (n,); inf outside the threat model. Minimum-norm attacks may exceed eps."""
        distance, allowed = self._measured(x, x_adv)
        return distance.masked_fill(~allowed, torch.inf)

    def _measured(self, x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Distance per row, float64 (n,), and whether the attack may use the image, bool (n,)."""
        threat = self.attack.threat
        if self.attack.minimum_norm:
            threat = replace(threat, eps=torch.inf)
        elif x.device.type == "cpu" and not any_row(allowed := threat.may_contain(x, x_adv)):
            return torch.full((len(x),), torch.inf, dtype=self.wide, device=x.device), allowed
        distance = threat.distance(x, x_adv)
        return distance, threat.contains(x, x_adv, distance)

    def result(self, rows: SearchState) -> AttackResult:
        """What is known of rows that have ended, on the CPU."""
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
            parted=rows.parted,
            x_adv=torch.where(success[:, None, None, None], rows.best, rows.x),
        ).to("cpu")
        return replace(found, norm=found.norm.double())
