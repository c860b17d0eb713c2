"""The rows of verdicts: their columns, how tables of them are read and written, and which rows are refused."""

import contextlib
import io
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import atomic_path

METADATA_KEY = b"advdpnp"

FOUND = pa.schema(
    [
        ("sample", pa.int64()),
        ("label", pa.int64()),
        ("clean_prediction", pa.int64()),
        ("adversarial_prediction", pa.int64()),
        ("success", pa.bool_()),
        ("norm", pa.float64()),
        ("margin", pa.float32()),
        ("forwards", pa.int64()),
        ("backwards", pa.int64()),
        ("zero_gradient", pa.bool_()),
        ("borderline", pa.bool_()),
        ("stage", pa.int64()),
        ("refused", pa.int64()),
    ]
)
"""What an evaluation finds for each sample."""

_LATER = ("stage", "refused")  # columns that older files lack; -1 stands for unknown

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Verdicts:
    """The verdicts of one complete evaluation.

    Attributes:
        path: the file that holds them.
        frame: the columns of ``FOUND``, sorted by sample.
        info: the JSON metadata: identity, dataset, seed, randomised, batch_dependent, runs.
    """

    path: Path
    frame: pd.DataFrame
    info: dict[str, Any]


def to_verdicts(path: Path, table: pa.Table, info: dict[str, Any]) -> Verdicts:
    """Verdicts of rows that were read from ``path``.

    Raises:
        AdvdpnpError: no search can have written these rows.
    """
    frame = table.to_pandas()
    if frame["sample"].duplicated().any():
        raise changed(path, "it judges samples twice")
    if info["identity"].get("threat") is not None and not np.isfinite(frame.loc[needs_image(frame), "norm"]).all():
        raise changed(path, "samples count as broken by an image at no finite distance")
    return Verdicts(path, frame, info)


def changed(path: Path, why: str) -> AdvdpnpError:
    """The error for a file that no evaluation has written like this."""
    return AdvdpnpError(f"the verdict file {path} was changed: {why}; delete it and run the same evaluation again")


def read_table(path: Path, names: Collection[str] = ("identity", "runs")) -> tuple[pa.Table, dict[str, Any]]:
    """All columns of a file that ``write_table`` wrote, and its JSON metadata, which must have ``names``.

    Raises:
        AdvdpnpError: it is another kind of file.
    """
    # A file of its own, not a data set: folder names with "=" in them must not become columns.
    table = read_parquet(path, path)
    metadata = table.schema.metadata or {}
    if METADATA_KEY not in metadata:
        raise stranger(path)
    try:
        info: dict[str, Any] = json.loads(metadata[METADATA_KEY])
        timed = all(isinstance(run["seconds"], int | float) for run in info["runs"])
        if not timed or not isinstance(info["identity"], dict) or not set(names) <= set(info):
            raise ValueError("another kind of metadata")
    except (ValueError, KeyError, TypeError) as error:
        raise AdvdpnpError(
            f"the metadata of {path} are damaged; delete it and run the same evaluation again"
        ) from error
    return table.replace_schema_metadata(None), info


def read_parquet(source: Path | io.BytesIO, path: Path) -> pa.Table:
    """All columns of a Parquet file, which is at ``path`` and may be in memory, its page checksums verified."""
    try:
        table = pq.ParquetFile(source, page_checksum_verification=True).read()
        table.validate(full=True)  # text that is no text would fail much later
    except (pa.ArrowException, ValueError, OSError) as error:
        raise damaged(path) from error
    return table


def as_found(table: pa.Table, path: Path) -> pa.Table:
    """The columns of ``FOUND``.

    Raises:
        AdvdpnpError: some are missing.
    """
    for name in _LATER:
        if name not in table.column_names:
            table = table.append_column(name, pa.array([-1] * len(table), pa.int64()))
    if not set(FOUND.names) <= set(table.column_names):
        raise stranger(path)
    return table.select(FOUND.names).cast(FOUND)


def stranger(path: Path) -> AdvdpnpError:
    """The error for a file of another kind."""
    return AdvdpnpError(f"{path} is not a verdict file of advdpnp; move it out of this folder")


def damaged(path: Path) -> AdvdpnpError:
    """The error for a file of verdicts that cannot be read or is not what was written."""
    return AdvdpnpError(
        f"the verdict file {path} is damaged; delete it and run the same evaluation again, "
        "which searches only what it held"
    )


def write_table(path: Path, table: pa.Table, info: Mapping[str, Any]) -> None:
    """Write a table with JSON metadata, atomically, and with checksums that reveal a flipped bit."""
    metadata = {METADATA_KEY: json.dumps(info, sort_keys=True).encode()}
    with atomic_path(path) as temporary, contextlib.closing(open(temporary, "wb")) as stream:
        pq.write_table(table.replace_schema_metadata(metadata), stream, compression="zstd", write_page_checksum=True)


def needs_image(columns: Any) -> np.ndarray:
    """Which verdicts rest on an adversarial image, bool (n,): clean mistakes need none.

    Args:
        columns: gives the columns of ``FOUND`` by name: a table, a data frame or a mapping.
    """
    success, prediction, label = (np.asarray(columns[name]) for name in ("success", "clean_prediction", "label"))
    return np.asarray(success & (prediction == label))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file by name."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:
        raise AdvdpnpError(f"the file {path} is damaged; delete it and run the same evaluation again") from error


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write what ``read_arrays`` reads, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)
