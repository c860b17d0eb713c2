"""Where the runner puts what it finds: a results folder, or memory."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from advdpnp.datasets import Dataset
from advdpnp.eval.store.diagnostics_record import DiagnosticRecord
from advdpnp.eval.store.index import EvaluationRecord
from advdpnp.eval.store.key import EvaluationKey, short_hash
from advdpnp.eval.store.model_folder import open_model
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.reader import StoredEvaluation, collect_results
from advdpnp.eval.store.schema import Verdicts
from advdpnp.eval.store.writer import Pack, VerdictCollector
from advdpnp.models.loading import LoadedModel


def identity_of(loaded: LoadedModel, dataset: Dataset) -> ModelRecord:
    """What is stored of a model beside its verdicts."""
    recipe = loaded.recipe
    return ModelRecord(
        name=loaded.name,
        weights_hash=loaded.weights_hash,
        architecture=loaded.architecture,
        method=loaded.method,
        parameters=loaded.parameters,
        min_separation=loaded.metric("min_separation"),
        training_seconds=loaded.metric("seconds"),
        # Equal for models that differ only in the seed of their training.
        recipe_hash=short_hash([loaded.header.get("dataset"), recipe]) if recipe else "",
        training_seed=loaded.training_seed,
        class_names=tuple(dataset.class_names),
        dataset=dataset.label,
        dtype=loaded.dtype if loaded.dtype != "float32" else "",
    )


class ModelResults(Protocol):
    """The results of one model. ``ModelFolder`` documents the methods."""

    def has(self, unit: EvaluationKey) -> bool: ...
    def read(self, unit: EvaluationKey) -> Verdicts: ...
    def stored(self, unit: EvaluationKey, *, images: bool = False) -> np.ndarray: ...
    def is_complete(self, unit: EvaluationKey, samples: np.ndarray, *, images: bool = False) -> bool: ...
    def forget_records(self, unit: EvaluationKey) -> None: ...
    def searches(self, data: str) -> Sequence[EvaluationRecord]: ...
    def forget_searches(self, data: str) -> None: ...
    def has_diagnostics(self, about: DiagnosticRecord) -> bool: ...
    def write_diagnostics(self, measured: DiagnosticRecord) -> None: ...
    def writer(
        self,
        unit: EvaluationKey,
        samples: np.ndarray,
        facts: Mapping[str, Any],
        *,
        pack: Pack | None = None,
    ) -> AbstractContextManager[VerdictCollector]: ...


class Results(Protocol):
    """The results of an evaluation."""

    @property
    def log(self) -> Path | None:
        """A file for what libraries have to say; None for none."""

    def open(self, model: ModelRecord) -> AbstractContextManager[ModelResults]:
        """The results of one model, locked against other writers."""

    def evaluations(self) -> list[StoredEvaluation]:
        """Everything that is complete and can be read."""


@dataclass(frozen=True)
class ResultsFolder:
    """Results below the folder ``out``.

    Attributes:
        damaged: what was wrong with results of others when ``evaluations`` looked last.
    """

    out: Path
    damaged: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.out / "ray.log"

    def open(self, model: ModelRecord) -> AbstractContextManager[ModelResults]:
        return open_model(self.out, model)

    def evaluations(self) -> list[StoredEvaluation]:
        found, self.damaged[:] = collect_results([self.out])
        return found
