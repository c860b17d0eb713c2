"""The driver: hands out pieces to the workers, writes what they find, and alone touches the store."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from advdpnp.base.devices import OUT_OF_MEMORY
from advdpnp.base.errors import AdvdpnpError, ModelError, describe
from advdpnp.eval.diagnostics import DiagnosticRecord
from advdpnp.eval.run.cluster.connection import Cluster, workers_died
from advdpnp.eval.run.cluster.fleet import Fleet
from advdpnp.eval.run.cluster.model_course import ModelCourse
from advdpnp.eval.run.cluster.worker import Answer, Found, Hello, Job, Worker
from advdpnp.eval.run.model_run import ModelStopped, smaller
from advdpnp.eval.run.plan import Plan
from advdpnp.eval.run.progress import Progress
from advdpnp.eval.run.results import Results
from advdpnp.eval.run.subject import FirstLook
from advdpnp.models.loading import LoadedModel

_LOOK_AROUND = 2.0  # seconds between two looks at what machines the cluster has
_WINDOW = 30.0  # seconds over which the speed is measured
_DEATHS = 4  # of workers, after which a piece is to blame, or the place that they were started at


@dataclass(eq=False)
class _Hand:
    """A worker as the driver sees it.

    Attributes:
        actor: its handle.
        stillborn: how many workers have died in its place, one after the other, before they were ready.
        hello: what it said when it was ready; None until then.
        model: number of the model that it holds.
        job: what it does; None while it starts, and between two jobs.
        until: when the job should be done.
    """

    actor: Any
    stillborn: int = 0
    hello: Hello | None = None
    model: int | None = None
    job: Job | None = None
    until: float = 0.0


class Driver:
    """Evaluates models under a plan on the workers of a cluster.

    Args:
        ray: connected.
        cluster: how many workers share a GPU.
        models: what is evaluated.
        plan: on the workers' device.
        results: where verdicts go.
        warnings: receives sentences about searches that were repeated and found something else.
    """

    def __init__(
        self,
        ray: Any,
        cluster: Cluster,
        models: Sequence[LoadedModel],
        plan: Plan,
        results: Results,
        warnings: list[str],
    ) -> None:
        self._ray, self._cluster, self._progress = ray, cluster, plan.progress
        self._plan = replace(plan, progress=Progress())
        size = plan.components.first_batch_size(plan.device)
        self._courses = [ModelCourse(each, self._plan, results, size, warnings) for each in models]
        self._waiting = list(range(len(models)))
        self._open: set[int] = set()
        self._hands: list[_Hand] = []
        self._running: dict[Any, _Hand] = {}
        self._speed: list[tuple[float, int]] = []  # time and samples of each piece
        self._asked: set[str] = set()
        self._failures: list[ModelError] = []
        self._stillborn: list[int] = []  # of places whose worker died before it was ready: how often
        self._pieces = self._lost = self._places = self._given_up = 0
        self._looked = -np.inf

    def run(self) -> tuple[set[str], list[ModelError]]:
        """Evaluate; however it ends, what was found is on disk and the workers are gone.

        Returns:
            Hashes of all evaluations that the plan asks for, and the errors of models that stopped answering.

        Raises:
            AdvdpnpError: a model cannot be evaluated, results cannot be written, or workers die again and again.
        """
        others = ", ".join(each.name for each in self._plan.transfer_from)
        self._plan_reference = [self._sent(self._plan, others or "what is evaluated")]
        self._references = [[self._sent(course.loaded, course.loaded.name)] for course in self._courses]
        try:
            while self._waiting or self._open:
                self._hire()
                for hand in [each for each in self._hands if each.hello and each.job is None]:
                    if (job := self._next_job(hand)) is None:
                        break  # there is none for the others either
                    self._start(hand, job)
                self._progress.fleet(self._fleet())
                for reference in self._ready():
                    self._handle(reference, self._running.pop(reference))
        except BaseException as error:
            self._take_what_is_ready()
            for number in self._open:
                self._courses[number].abandon(error)
            raise
        finally:
            for hand in self._hands:
                with suppress(Exception):
                    self._ray.kill(hand.actor)
        return self._asked, self._failures

    def _start(self, hand: _Hand, job: Job) -> None:
        hand.job, hand.model = job, job.model
        hand.until = time.monotonic() + self._courses[job.model].seconds_of(job)
        self._running[hand.actor.do.remote(job, self._references[job.model])] = hand

    def _take_what_is_ready(self) -> None:
        """Store what other workers have found meanwhile, after an error."""
        with suppress(Exception):
            every = list(self._running)
            for reference in self._ray.wait(every, num_returns=len(every), timeout=0)[0] if every else []:
                with suppress(Exception):
                    self._handle(reference, self._running.pop(reference))

    def _sent(self, value: LoadedModel | Plan, name: str) -> Any:
        """A reference to a model or the plan, once for all workers."""
        try:
            return self._ray.put(value)
        except Exception as error:
            raise AdvdpnpError(
                f"{name} cannot be sent to workers ({describe(error)}); evaluate without --cluster"
            ) from error

    def _hire(self) -> None:
        """Ask for a worker for every device of the cluster that has none."""
        now = time.monotonic()
        if now - self._looked < _LOOK_AROUND:
            return
        self._looked = now
        places = self._cluster.places(self._ray.cluster_resources(), self._plan.device)
        if places != self._places:
            self._places, self._given_up = places, 0  # a machine has joined or left
            self._stillborn.clear()
        # Ray would restart a worker for ever that dies as it starts, and not say so: the driver asks for another one.
        remote = self._ray.remote(max_restarts=0, **self._cluster.share(self._plan.device))(Worker)
        for _ in range(places - self._given_up - len(self._hands)):
            hand = _Hand(remote.remote(self._ray.get), self._stillborn.pop() if self._stillborn else 0)
            self._hands.append(hand)
            self._running[hand.actor.hello.remote(self._plan_reference)] = hand

    def _ready(self) -> list[Any]:
        if not self._running:
            time.sleep(_LOOK_AROUND)
            return []
        every = list(self._running)
        first, _ = self._ray.wait(every, timeout=1.0)
        return self._ray.wait(every, num_returns=len(every), timeout=0)[0] if first else []  # type: ignore[no-any-return]

    def _next_job(self, hand: _Hand) -> Job | None:
        """The next piece of the model that a worker holds, or a model that nobody has begun, or the one most behind."""
        able = {number for number in self._open if self._courses[number].has_work}
        if hand.model in able:
            number = hand.model
        elif self._waiting:
            number = self._waiting.pop(0)
            self._open.add(number)
            self._courses[number].begin()
        elif able:
            at_work = [each.model for each in self._hands if each.job is not None]
            number = max(able, key=lambda n: self._courses[n].cost_left / (1 + at_work.count(n)))
        else:
            return None
        left = np.inf if self._waiting else sum(self._courses[n].cost_left for n in self._open)
        return self._courses[number].next_job(number, left, len(self._hands))

    def _handle(self, reference: Any, hand: _Hand) -> None:
        job, errors = hand.job, self._ray.exceptions
        try:
            answer = self._ray.get(reference)
        except errors.RayTaskError as error:
            if job is None:
                raise AdvdpnpError(
                    f"a worker cannot start ({describe(error.cause)}); install the same Python and the same packages "
                    "on every machine of the cluster"
                ) from error
            raise error.as_instanceof_cause() from error
        except errors.RayError as error:
            self._bury(hand, job, error)
            return
        if isinstance(answer, Hello):
            hand.hello = answer
            return
        assert job is not None
        assert hand.hello is not None
        hand.job = None
        course = self._courses[job.model]
        if job.model not in self._open or course.static_batch_size != job.static_batch_size:
            return  # of a model that has failed since, or begun again
        course.at_work -= 1
        self._take(course, job, answer, hand.hello)
        unfinished = isinstance(answer, list) and not answer[-1].complete
        if unfinished and (rest := course.rest_of(job)) is not None:
            self._start(hand, rest)
        if course.done:
            course.close()
            self._open.discard(job.model)

    def _take(self, course: ModelCourse, job: Job, answer: Answer, hello: Hello) -> None:
        if isinstance(answer, OUT_OF_MEMORY):
            course.restart(smaller(course.static_batch_size, course.loaded, self._plan))
        elif isinstance(answer, ModelError):
            error = ModelStopped(f"{course.loaded.name}: {answer}")
            self._failures.append(error)
            course.abandon(error)
            self._open.discard(job.model)
        elif isinstance(answer, AdvdpnpError):
            raise answer
        elif isinstance(answer, FirstLook):
            self._asked |= course.looked_at(answer)
            self._progress.plan(course.plan_of(len(self._waiting)))
        elif isinstance(answer, DiagnosticRecord):
            course.store_measurement(answer)
        else:
            self._pieces += answer[-1].complete
            self._count(answer)
            for line in course.take(answer, hello):
                self._progress.say(line)

    def _count(self, answer: list[Found]) -> None:
        now = time.monotonic()
        samples = sum(len(found.columns["sample"]) for found in answer)
        self._speed = [*(each for each in self._speed if now - each[0] < _WINDOW), (now, samples)]

    def _bury(self, hand: _Hand, job: Job | None, error: Exception) -> None:
        """Give the job of a dead worker to the next one; ``_hire`` asks for another worker in its place."""
        self._hands.remove(hand)
        with suppress(Exception):
            self._ray.kill(hand.actor)  # one that is only out of reach would keep its place
        if job is None:
            self._count_stillborn(hand.stillborn + 1, error)
        elif job.model in self._open:
            course = self._courses[job.model]
            if course.static_batch_size == job.static_batch_size:
                course.at_work -= 1
                self._lost += 1
                deaths = course.give_back(job)
                if deaths >= _DEATHS:
                    raise workers_died(deaths, f"of the same images of {course.loaded.name}") from error

    def _count_stillborn(self, deaths: int, error: Exception) -> None:
        """After too many deaths in a row before a worker was ready, its place stays empty until the machines change."""
        if deaths < _DEATHS:
            self._stillborn.append(deaths)
            return
        self._given_up += 1
        if not self._hands and not self._stillborn:
            raise workers_died(deaths, "one after the other before they were ready") from error
        self._progress.say(f"{deaths} workers died before they were ready; the others work on without them")

    def _fleet(self) -> Fleet:
        now = time.monotonic()
        gone = now - self._speed[0][0] if self._speed else 0.0
        samples = sum(count for _, count in self._speed)
        busy = [hand for hand in self._hands if hand.job is not None]
        ready = sum(hand.hello is not None for hand in self._hands)
        left = sum(self._courses[n].seconds_left for n in self._open) + sum(max(0.0, hand.until - now) for hand in busy)
        return Fleet(
            pieces=self._pieces,
            running=len(busy),
            lost=self._lost,
            workers=ready,
            samples_per_second=samples / gone if gone > 1 else None,
            seconds_left=left / ready if ready and self._pieces and not self._waiting else None,
            models_left=len(self._waiting),
        )
