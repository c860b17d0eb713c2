"""One model in an evaluation on a cluster: what is still to be handed out, and what has been found."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from advdpnp.attacks.engine.replicas import SMALLEST_BATCH
from advdpnp.attacks.threat import ThreatModel
from advdpnp.eval.diagnostics import DiagnosticRecord
from advdpnp.eval.run.cluster.pieces import Group, fewest
from advdpnp.eval.run.cluster.worker import Found, Hello, Job
from advdpnp.eval.run.model_run import ModelRun, OpenUnit
from advdpnp.eval.run.plan import Plan
from advdpnp.eval.run.results import ModelResults, Results, identity_of
from advdpnp.eval.run.subject import FirstLook, tasks_of
from advdpnp.eval.run.tasks import NearestTask, Setting, Task
from advdpnp.eval.run.work import ModelPlan
from advdpnp.eval.store.key import EvaluationKey
from advdpnp.eval.store.writer import Pack
from advdpnp.models.loading import LoadedModel


@dataclass
class _Unit:
    """An evaluation that is not complete, until ``stack`` is closed."""

    open: OpenUnit
    stack: ExitStack
    group: Group
    robust: int = 0
    taken: int = 0
    seconds: float = 0.0  # that have found no verdict yet


class ModelCourse:
    """What becomes of one model.

    Attributes:
        loaded: the model.
        static_batch_size: rows of every model call.
        at_work: how many workers have a job of it.
    """

    def __init__(
        self, loaded: LoadedModel, plan: Plan, results: Results, static_batch_size: int, warnings: list[str]
    ) -> None:
        self.loaded, self.static_batch_size, self.at_work = loaded, static_batch_size, 0
        self._plan, self._results, self._warnings = plan, results, warnings
        self._stack = ExitStack()
        self._reset()

    def _reset(self) -> None:
        self._look: FirstLook | None = None
        self._asked_to_look = False
        self._run: ModelRun | None = None
        self._tasks: list[Task] = []
        self._measurements: list[tuple[DiagnosticRecord, ThreatModel | None]] = []
        self._groups: list[Group] = []
        self._units: dict[str, _Unit] = {}
        self._deaths = 0  # of workers that looked or measured, in a row

    def begin(self) -> None:
        """Open its results; they are locked until ``close`` or ``abandon``."""
        self._store: ModelResults = self._stack.enter_context(
            self._results.open(identity_of(self.loaded, self._plan.dataset))
        )

    def close(self) -> None:
        """Let its results go."""
        self._stack.close()
        self._reset()

    def abandon(self, error: BaseException) -> None:
        """Let its results go after an error; evaluations stay incomplete."""
        self._close_units(error)
        self.close()

    def restart(self, static_batch_size: int) -> None:
        """Begin again with smaller batches."""
        self._close_units(MemoryError())
        self._reset()
        self.static_batch_size, self.at_work = static_batch_size, 0

    def _close_units(self, error: BaseException) -> None:
        for unit in self._units.values():
            with suppress(type(error)):
                unit.stack.__exit__(type(error), error, error.__traceback__)

    @property
    def has_work(self) -> bool:
        """Whether there is something to hand out."""
        if self._look is None:
            return not self._asked_to_look
        return bool(self._measurements) or any(group.rows_left for group in self._groups)

    @property
    def done(self) -> bool:
        """Whether everything is found and stored."""
        return self._look is not None and not (self.has_work or self.at_work or self._units)

    @property
    def cost_left(self) -> float:
        """Expected model evaluations of what is not handed out."""
        return sum(group.cost_left for group in self._groups)

    @property
    def seconds_left(self) -> float:
        """Expected seconds of one worker for what is not handed out."""
        return sum(group.rows_left * group.each for group in self._groups)

    def seconds_of(self, job: Job) -> float:
        """Expected seconds of a job that was handed out."""
        if job.piece is None or job.piece.units[0][0] not in self._units:
            return 0.0
        return len(job.piece.samples) * self._units[job.piece.units[0][0]].group.each

    def next_job(self, number: int, all_left: float, workers: int) -> Job:
        """Hand out a job; ``number`` is that of the model, the rest as for ``Group.cut``."""
        self.at_work += 1
        job = Job(number, self.static_batch_size, self._look)
        if self._look is None:
            self._asked_to_look = True
            return job
        if self._measurements:
            return replace(job, measure=self._measurements.pop(0))
        group = next(group for group in self._groups if group.rows_left)
        on_cpu = self._plan.device.type == "cpu"
        least = fewest(self.static_batch_size, self._look.seconds, on_cpu)
        piece = group.cut(all_left, workers, least, SMALLEST_BATCH if on_cpu else self.static_batch_size)
        writers = {unit: self._units[unit].open.writer for unit, _ in piece.units if group.whole}
        return replace(job, piece=piece, records={unit: writer.records() for unit, writer in writers.items()})

    def give_back(self, job: Job) -> int:
        """Take back a job whose worker died; returns how many workers have died of it."""
        if job.measure is not None:
            self._measurements.append(job.measure)
        if job.piece is None:
            self._asked_to_look = job.look is not None
            self._deaths += 1
            return self._deaths
        piece = replace(job.piece, deaths=job.piece.deaths + 1)
        self._units[piece.units[0][0]].group.give_back(piece)
        return piece.deaths

    def rest_of(self, job: Job) -> Job | None:
        """What is left of a job of a package's search, after ``take``; None: nothing is."""
        assert job.piece is not None
        ((unit, samples),) = job.piece.units
        if unit not in self._units:
            return None
        open_unit = self._units[unit].open
        left = np.intersect1d(samples, open_unit.missing)
        piece = replace(job.piece, units=((unit, left),), deaths=0)  # it has made progress
        self.at_work += 1
        return replace(job, piece=piece, records={unit: open_unit.writer.records()})

    def looked_at(self, look: FirstLook) -> set[str]:
        """Plan what is missing, now that the model is known; returns the hashes of all evaluations."""
        self._look, self._deaths = look, 0
        setting = Setting(self.loaded.model, self._plan, look.static_batch_size, look.randomised, look.choice.precision)
        self._tasks = tasks_of(setting, look.classes, self.loaded.weights_hash)
        run = ModelRun(self.loaded, self._plan, self._store, look, self._tasks, self._warnings)
        self._run = run
        self._measurements = list(run.measurements_left())
        self._groups = []
        missing = [task for task in self._tasks if not run.has(task.key)]
        for tasks in _grouped(missing):
            self._open(run, tasks, look)
        self._groups.sort(key=lambda group: not group.whole)  # what cannot be divided takes longest
        return {task.key.hash for task in self._tasks}

    def _open(self, run: ModelRun, tasks: list[Task], look: FirstLook) -> None:
        opened = []
        for task in tasks:
            stack = ExitStack()
            opened.append((stack.enter_context(run.open(task, _packed_by_workers)), stack))
        missing = [(each.task.key.hash, each.missing) for each, _ in opened]
        surviving = look.right if tasks[0].key.threat is not None else 1.0
        group = Group(missing, tasks[0].cost, surviving, look.seconds, whole=not tasks[0].shared)
        if group.rows_left:
            self._groups.append(group)
        for each, stack in opened:
            if len(each.missing):
                self._units[each.task.key.hash] = _Unit(each, stack, group)
            else:
                stack.close()  # an earlier run was stopped just before this

    def plan_of(self, models_left: int) -> ModelPlan:
        """What is going to be done."""
        assert self._run is not None
        return self._run.work(self._tasks, models_left)

    def store_measurement(self, record: DiagnosticRecord) -> None:
        """Store what flags rest on."""
        self._deaths = 0
        self._store.write_diagnostics(record)

    def take(self, answer: list[Found], hello: Hello) -> Iterator[str]:
        """Store verdicts; yields a sentence about each evaluation that is complete with them."""
        for found in answer:
            unit = self._units[found.unit]
            columns, writer = found.columns, unit.open.writer
            writer.note(**found.facts, device=hello.device, versions=dict(hello.versions))
            if found.packed is not None:
                writer.keep_packed(found.packed, tuple(self._plan.dataset.test.images.shape[1:]))
            unit.seconds += found.seconds
            writer.count_parted(found.parted)
            if len(columns["sample"]):
                writer.add(columns, found.places, found.x, found.x_adv, seconds=unit.seconds)
                unit.seconds = 0.0
            for record in found.records:
                writer.checkpoint(record)
            evaluations = int(columns["forwards"].sum() + columns["backwards"].sum())
            unit.group.observe(len(columns["sample"]), evaluations, found.seconds)
            unit.open.missing = np.setdiff1d(unit.open.missing, columns["sample"])
            unit.robust += int((~columns["success"]).sum())
            unit.taken += len(columns["sample"])
            if not len(unit.open.missing):
                del self._units[found.unit]
                unit.stack.close()
                key: EvaluationKey = unit.open.task.key
                word = "right" if key.threat is None else "robust"
                yield f"{self.loaded.name}  {key.text}  {word} {unit.robust} of {unit.taken}"


def _grouped(tasks: list[Task]) -> list[list[Task]]:
    """Tasks that share one search together."""
    groups: dict[int, list[Task]] = {}
    for task in tasks:
        groups.setdefault(id(task.found if isinstance(task, NearestTask) else task), []).append(task)
    return list(groups.values())


def _packed_by_workers(unit: EvaluationKey) -> Pack:
    def pack(*images: Any) -> Any:
        raise AssertionError("the workers pack the images")

    return pack
