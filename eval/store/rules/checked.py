"""Verdicts as any reader gets them: after all rules, and in little memory."""

from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from advdpnp.eval.store.data_files import EvaluationData, read_contents
from advdpnp.eval.store.index import INDEX, EvaluationRecord
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.rules.identity import wrong_identity
from advdpnp.eval.store.rules.verdicts import wrong_verdicts
from advdpnp.eval.store.schema import FOUND, Verdicts, changed, damaged, to_verdicts


def checked_verdicts(path: Path, model: ModelRecord, data: EvaluationData) -> Verdicts:
    """The verdicts of one evaluation of a model, which were read from ``path``.

    Raises:
        AdvdpnpError: no evaluation can have written them.
    """
    record, classes = data.record, len(model.class_names)
    verdicts = to_verdicts(path, data.verdicts, record.info)
    columns = {name: data.verdicts.column(name).to_numpy() for name in FOUND.names}
    wrong = wrong_identity(record.hash, record.identity, record.eps_text, record.metadata, classes)
    if wrong := wrong or wrong_verdicts(columns, record.identity, classes):
        raise changed(path, f"{record.identity['label']}: {wrong}")
    if record.kind != "corruptions" or not (path.parent / INDEX).exists():
        return verdicts
    # Of hundreds of models with 75 cells each, the whole rows would not fit in memory.
    kept = {name: _interned(columns[name].tobytes()) for name in ("sample", "label")}
    kept["success"] = columns["success"].copy()
    return replace(verdicts, table=partial(_read_cell, path.parent, record), kept=kept)


@lru_cache(maxsize=256)
def _interned(content: bytes) -> np.ndarray:
    """One array for all columns (int64) of the same content; read-only."""
    return np.frombuffer(content, np.int64)


def _read_cell(folder: Path, record: EvaluationRecord) -> pa.Table:
    contents = read_contents(folder)
    if contents is None or contents.index.find(record.hash) is None:
        raise damaged(folder / INDEX)
    return contents.verdicts(record)
