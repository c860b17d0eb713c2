"""What runs on a worker: one model at a time, loaded once; looks at it, measures it, judges pieces of samples."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from advdpnp.attacks.engine.executor import evaluation_mode
from advdpnp.attacks.engine.verification import unasked_copy
from advdpnp.attacks.search_state import AttackResult
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.devices import OUT_OF_MEMORY
from advdpnp.base.errors import AdvdpnpError, ModelError, describe
from advdpnp.base.versions import software_versions
from advdpnp.eval.diagnostics import DiagnosticRecord
from advdpnp.eval.run.cluster.pieces import Piece
from advdpnp.eval.run.device import device_name, on_device, user_code
from advdpnp.eval.run.model_run import columns_of
from advdpnp.eval.run.plan import Plan
from advdpnp.eval.run.subject import FirstLook, Subject, first_look
from advdpnp.eval.store.adversarial_images import EXAMPLES
from advdpnp.eval.store.key import EvaluationKey
from advdpnp.eval.store.model_folder import require_verdicts
from advdpnp.eval.store.schema import FOUND, needs_image
from advdpnp.models.classifier import as_classifier
from advdpnp.models.loading import LoadedModel

CHECKPOINT_SECONDS = 30.0
"""A package's search tells the driver what it has found and where it is so often."""


@dataclass(frozen=True)
class Job:
    """What a worker is asked.

    Attributes:
        model: number of the model.
        static_batch_size: rows of every model call.
        look: what is known of the model; None asks for a first look and nothing else.
        measure: a measurement to make, and its threat model.
        piece: samples to judge.
        records: of searches of packages that were interrupted, by evaluation: where they continue.
    """

    model: int
    static_batch_size: int
    look: FirstLook | None = None
    measure: tuple[DiagnosticRecord, ThreatModel | None] | None = None
    piece: Piece | None = None
    records: Mapping[str, list[dict[str, np.ndarray]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """Verdicts of one evaluation.

    Attributes:
        unit: its hash.
        columns: of ``FOUND``, each of shape (n,).
        places: rows whose images are sent: those of the plan's first samples.
        x, x_adv: clean and adversarial images of these, float32 (k, c, h, w).
        packed: adversarial images to store, as ``to_table`` makes them; None where none are kept.
        facts: notes of the search.
        seconds: that it took.
        parted: how many samples are ``AttackResult.parted``.
        records: checkpoints of a package's search, each written after these verdicts.
        complete: whether the search has ended; if not, the same samples less these are the worker's next job.
    """

    unit: str
    columns: dict[str, np.ndarray]
    places: np.ndarray
    x: np.ndarray | None
    x_adv: np.ndarray | None
    packed: pa.Table | None
    facts: dict[str, Any]
    seconds: float
    parted: int = 0
    records: Sequence[dict[str, np.ndarray]] = ()
    complete: bool = True


@dataclass(frozen=True)
class Hello:
    """A worker that is ready: the name of its device, and its software."""

    device: str
    versions: Mapping[str, str]


Answer = FirstLook | DiagnosticRecord | list[Found] | torch.OutOfMemoryError | MemoryError | AdvdpnpError


class _Notes:
    """Stands for the writer of an evaluation, which is at the driver.

    Attributes:
        facts: notes of the search.
        new: checkpoints that the driver has not been sent.
    """

    def __init__(self, records: list[dict[str, np.ndarray]]) -> None:
        self._records = records
        self.facts: dict[str, Any] = {}
        self.new: list[dict[str, np.ndarray]] = []

    def note(self, **facts: Any) -> None:
        self.facts |= facts

    def records(self) -> list[dict[str, np.ndarray]]:
        return self._records

    def checkpoint(self, record: dict[str, np.ndarray]) -> None:
        self._records, self.new = [*self._records, record], [*self.new, record]


@dataclass(frozen=True)
class _Search:
    """A search that has been told of so far and goes on."""

    unit: str
    findings: Iterator[AttackResult]
    notes: _Notes


class Worker:
    """Answers jobs, one after the other.

    Args:
        get: fetches what a reference refers to (``ray.get``).
    """

    def __init__(self, get: Callable[[Any], Any]) -> None:
        self._get = get
        self._held: tuple[int, int] | None = None
        self._subject: Subject | None = None
        self._going: _Search | None = None
        self._stack = ExitStack()

    def hello(self, plan: list[Any]) -> Hello:
        """Get ready; ``plan`` is a reference to the plan, in a list, which keeps Ray from fetching it."""
        self._plan: Plan = self._get(plan[0])
        if self._plan.device.type == "cpu":
            torch.set_num_threads(1)
        return Hello(device_name(self._plan.device), software_versions())

    def do(self, job: Job, model: list[Any]) -> Answer:
        """Answer a job, or return the error that the model or memory is to blame for.

        Args:
            model: a reference to the model, in a list.
        """
        try:
            return self._answer(job, model)
        except (*OUT_OF_MEMORY, AdvdpnpError) as error:
            self._release()
            return error.with_traceback(None)

    def _answer(self, job: Job, model_reference: list[Any]) -> Answer:
        held = (job.model, job.static_batch_size)
        if held != self._held or job.look is None:
            self._release()
            loaded = self._load(model_reference)
            self._stack.enter_context(on_device(loaded.model, self._plan.device))
            look, model = job.look, as_classifier(loaded.model)
            unasked = unasked_copy(model)
            if look is None:
                look, simplest = first_look(loaded, self._plan, job.static_batch_size)
            else:
                x = self._plan.images(self._plan.samples[:1]).to(self._plan.device)
                with user_code(f"{loaded.name} fails on a worker", "fix its forward"), evaluation_mode(model):
                    torch.no_grad()(model)(x)
                simplest = model.simplest
            self._subject, self._held = Subject(simplest, loaded.weights_hash, self._plan, look, unasked), held
            if job.look is None:
                return look
        assert self._subject is not None
        if job.measure is not None:
            return self._subject.measure(*job.measure)
        assert job.piece is not None
        return self._judge(self._subject, job.piece, job.records)

    def _load(self, reference: list[Any]) -> LoadedModel:
        try:
            loaded: LoadedModel = self._get(reference[0])
        except Exception as error:
            said = describe(error.__cause__ or error).removeprefix("RaySystemError: System error: ")
            raise ModelError(
                f"a worker cannot load it ({said}); install what it needs on every machine of the cluster"
            ) from None
        return loaded

    def _release(self) -> None:
        self._held = self._subject = self._going = None
        self._stack.close()
        if self._plan.device.type == "cuda":
            torch.cuda.empty_cache()

    def _judge(self, subject: Subject, piece: Piece, records: Mapping[str, list[dict[str, np.ndarray]]]) -> list[Found]:
        # Fresh tasks: those of a minimum-norm attack share what they find, and only for this piece.
        tasks = {task.key.hash: task for task in subject.new_tasks()}
        if unknown := [unit for unit, _ in piece.units if unit not in tasks]:
            raise AdvdpnpError(
                f"a worker does not know the evaluation {unknown[0]}; install the same advdpnp on every machine of the "
                "cluster"
            )
        return [self._search(subject, tasks[unit], samples, records.get(unit, [])) for unit, samples in piece.units]

    def _search(self, subject: Subject, task: Any, samples: np.ndarray, records: list[dict[str, np.ndarray]]) -> Found:
        began, unit = time.monotonic(), task.key
        search, self._going = self._going, None
        if search is None or search.unit != unit.hash or len(search.notes.records()) != len(records):
            notes = _Notes(records)
            search = _Search(unit.hash, task.find(samples, notes), notes)
        parts: list[AttackResult] = []
        for findings in search.findings:
            parts.append(findings)
            if search.notes.new and time.monotonic() - began > CHECKPOINT_SECONDS:
                self._going = search
                break
        else:
            judged = [part.sample.numpy() for part in parts]
            require_verdicts(unit, samples, np.concatenate([samples[:0], *judged]))
        new, search.notes.new = search.notes.new, []
        return replace(
            self._told(subject, unit, parts),
            facts=search.notes.facts,
            seconds=time.monotonic() - began,
            records=new,
            complete=self._going is None,
        )

    def _told(self, subject: Subject, unit: EvaluationKey, parts: list[AttackResult]) -> Found:
        """Results as the driver stores them."""
        plan, kept, shown = self._plan, [], []
        keeping = plan.config.save_adversarials and unit.threat is not None
        columns = [columns_of(part) for part in parts]
        for found, part in zip(columns, parts, strict=True):
            first = np.isin(found["sample"], plan.samples[:EXAMPLES]) & (unit.threat is not None)
            broken = needs_image(found) if keeping else np.zeros(len(part), bool)
            x_adv = part.x_adv.numpy()
            shown.append((first, x_adv[first]))
            kept.append((found["sample"][broken], found["label"][broken], x_adv[broken]))
        together = {name: np.concatenate([each[name] for each in columns]) for name in FOUND.names}
        places = np.flatnonzero(np.concatenate([first for first, _ in shown]))
        x = plan.images(together["sample"][places]).numpy() if len(places) else None
        to_keep = [np.concatenate(each) for each in zip(*kept, strict=True)]
        return Found(
            unit=unit.hash,
            columns=together,
            places=places,
            x=x,
            x_adv=np.concatenate([images for _, images in shown]) if len(places) else None,
            packed=subject.packer(unit)(*to_keep) if keeping and len(to_keep[0]) else None,
            facts={},
            seconds=0.0,
            parted=sum(int(part.parted.sum()) for part in parts),
        )
