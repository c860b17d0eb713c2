"""Results in memory, equal to those that a results folder holds."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.store.data_files import EvaluationData, as_stored, from_stored
from advdpnp.eval.store.diagnostics_record import DiagnosticRecord
from advdpnp.eval.store.index import EvaluationRecord
from advdpnp.eval.store.key import EvaluationKey
from advdpnp.eval.store.model_folder import join_pieces, judged_samples
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.reader import StoredEvaluation
from advdpnp.eval.store.schema import Columns, Verdicts, to_verdicts
from advdpnp.eval.store.writer import Pack, VerdictCollector

_NOWHERE = Path("memory")  # the name of the file in errors


@dataclass(frozen=True)
class MemoryEvaluation(StoredEvaluation):
    """An evaluation that was never on disk.

    Attributes:
        measured: the measurements of the model.
    """

    measured: list[DiagnosticRecord] = field(default_factory=list)

    @property
    def images_path(self) -> Path:
        return _NOWHERE

    def diagnostics(self) -> tuple[DiagnosticRecord, ...]:
        return tuple(self.measured)


class MemoryCollector(VerdictCollector):
    """Keeps the parts of one evaluation. A search that is interrupted is lost, so it needs no checkpoints."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.found: list[EvaluationData] = []

    def checkpoint(self, record: Columns) -> None:
        pass

    def records(self) -> list[dict[str, np.ndarray]]:
        return []

    def _write(self, verdicts: pa.Table, record: EvaluationRecord, images: Iterable[pa.Table] | None) -> None:
        said = json.loads(json.dumps(asdict(record), sort_keys=True))  # as a file would hold it
        said["image_shape"] = tuple(said["image_shape"])
        tables = tuple(images or ())
        self.found.append(EvaluationData(EvaluationRecord(**said), verdicts, partial(iter, tables) if tables else None))


class MemoryModel:
    """The results of one model, as ``ModelFolder`` has them."""

    def __init__(self, model: ModelRecord) -> None:
        self.model = model
        self.evaluations: dict[str, MemoryEvaluation] = {}
        self.measured: list[DiagnosticRecord] = []
        self._running: dict[str, list[EvaluationData]] = {}
        self._complete: dict[str, list[EvaluationData]] = {}  # one each, as the store would hold it

    def has(self, unit: EvaluationKey) -> bool:
        return unit.hash in self.evaluations

    def read(self, unit: EvaluationKey) -> Verdicts:
        return self.evaluations[unit.hash].verdicts

    def stored(self, unit: EvaluationKey, *, images: bool = False) -> np.ndarray:
        running = self._running.get(unit.hash)
        if running is not None:
            return judged_samples(running, images=False)
        return self.evaluations[unit.hash].samples if self.has(unit) else np.zeros(0, np.int64)

    def is_complete(self, unit: EvaluationKey, samples: np.ndarray, *, images: bool = False) -> bool:
        return bool(np.isin(samples, self.stored(unit)).all())

    def forget_records(self, unit: EvaluationKey) -> None:
        pass

    def searches(self, data: str) -> list[EvaluationRecord]:
        return []  # none of an earlier call

    def forget_searches(self, data: str) -> None:
        pass

    def has_diagnostics(self, about: DiagnosticRecord) -> bool:
        return any(each.key == about.key for each in self.measured)

    def write_diagnostics(self, measured: DiagnosticRecord) -> None:
        self.measured.append(measured)

    @contextmanager
    def writer(
        self,
        unit: EvaluationKey,
        samples: np.ndarray,
        facts: Mapping[str, Any],
        *,
        pack: Pack | None = None,
    ) -> Iterator[MemoryCollector]:
        collector = MemoryCollector(unit, facts, pack)
        collector.found += self._complete.get(unit.hash, [])
        self._running[unit.hash] = collector.found
        try:
            yield collector
        finally:
            del self._running[unit.hash]
        collector.flush()
        done = join_pieces(unit, collector.found, samples, saved=pack is not None)
        if done is None:
            raise AdvdpnpError(f"{unit.label} has no verdicts")
        self._complete[unit.hash] = [done]
        images = tuple(done.images() if done.images else ())
        record = replace(done.record, images=sum(map(len, images)))
        table = from_stored(record.kind, as_stored(record.kind, done.verdicts))
        verdicts = to_verdicts(_NOWHERE, table, record.info)
        self.evaluations[unit.hash] = MemoryEvaluation(
            self.model, record, verdicts, partial(iter, images) if images else None, self.measured
        )


@dataclass(frozen=True)
class MemoryResults:
    """The results of an evaluation by this process alone."""

    models: dict[str, MemoryModel] = field(default_factory=dict)

    @property
    def log(self) -> None:
        return None

    @contextmanager
    def open(self, model: ModelRecord) -> Iterator[MemoryModel]:
        yield self.models.setdefault(model.weights_hash, MemoryModel(model))

    def evaluations(self) -> list[StoredEvaluation]:
        return [
            each
            for model in self.models.values()
            for each in sorted(model.evaluations.values(), key=lambda each: each.record.stem)
        ]
