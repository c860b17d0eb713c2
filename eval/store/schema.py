"""The rows of verdicts: their columns, the parts of an evaluation that is running, and which rows are refused."""

import contextlib
import json
from collections.abc import Mapping
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

_LATER = ("stage", "refused")  # columns that older files lack; -1 stands for what they do not tell

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
    frame = table.replace_schema_metadata(None).to_pandas()
    wrong = _contradiction(frame, attacked=info["identity"].get("threat") is not None)
    if wrong:
        raise AdvdpnpError(f"the verdict file {path} was changed: {wrong}; delete it and run the same evaluation again")
    return Verdicts(path, frame, info)


def _contradiction(frame: pd.DataFrame, *, attacked: bool) -> str:
    """What no search can have written, in words; "" if there is nothing of the kind."""
    if frame["sample"].duplicated().any():
        return "it judges samples twice"
    broken = frame["success"] & (frame["clean_prediction"] == frame["label"])
    if attacked and not np.isfinite(frame.loc[broken, "norm"]).all():
        return "samples count as broken by an image at no finite distance"
    return ""


def read_table(path: Path) -> pa.Table:
    """The rows of a part, as ``FOUND`` has them, with their metadata.

    Raises:
        AdvdpnpError: the file is damaged or holds no verdicts.
    """
    return as_found(read_parquet(path), path)


def read_parquet(path: Path) -> pa.Table:
    """All columns of a Parquet file, its page checksums verified.

    Raises:
        AdvdpnpError: the file is damaged.
    """
    try:
        # A file of its own, not a data set: folder names with "=" in them must not become columns.
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        table.validate(full=True)  # text that is no text would fail much later
    except (pa.ArrowException, ValueError, OSError) as error:
        raise damaged(path) from error
    return table


def as_found(table: pa.Table, path: Path) -> pa.Table:
    """The columns of ``FOUND``, with the metadata of the table.

    Raises:
        AdvdpnpError: some are missing.
    """
    for name in _LATER:
        if name not in table.column_names:
            table = table.append_column(name, pa.array([-1] * len(table), pa.int64()))
    if not set(FOUND.names) <= set(table.column_names) or METADATA_KEY not in (table.schema.metadata or {}):
        raise AdvdpnpError(f"{path} is not a verdict file of advdpnp; move it out of this folder")
    return table.select(FOUND.names).cast(FOUND.with_metadata(table.schema.metadata))


def damaged(path: Path) -> AdvdpnpError:
    """What to say of a file of verdicts that cannot be read or is not what was written."""
    return AdvdpnpError(
        f"the verdict file {path} is damaged; delete it and run the same evaluation again, "
        "which searches only what it held"
    )


def write_table(path: Path, table: pa.Table, info: Mapping[str, Any]) -> None:
    """Write a part, with what ``table_info`` is to read again, and checksums that reveal a flipped bit."""
    metadata = {METADATA_KEY: json.dumps(info, sort_keys=True).encode()}
    with atomic_path(path) as temporary, contextlib.closing(open(temporary, "wb")) as stream:
        pq.write_table(table.replace_schema_metadata(metadata), stream, compression="zstd", write_page_checksum=True)


def table_info(table: pa.Table, path: Path) -> dict[str, Any]:
    """The JSON metadata of a table that was read from ``path``.

    Raises:
        AdvdpnpError: they are damaged.
    """
    try:
        info: dict[str, Any] = json.loads(table.schema.metadata[METADATA_KEY])
        if not (
            isinstance(info["identity"], dict) and all(isinstance(run["seconds"], int | float) for run in info["runs"])
        ):
            raise ValueError("another kind of metadata")
    except (ValueError, KeyError, TypeError) as error:
        raise AdvdpnpError(
            f"the metadata of {path} are damaged; delete it and run the same evaluation again"
        ) from error
    return info


def needs_image(verdicts: pa.Table) -> np.ndarray:
    """Which verdicts rest on an adversarial image, bool (n,): clean mistakes need none."""
    wanted = ("success", "clean_prediction", "label")
    return needs_image_columns({name: verdicts.column(name).to_numpy() for name in wanted})


def needs_image_columns(columns: Columns) -> np.ndarray:
    """The same for rows that are no table yet."""
    return np.asarray(columns["success"] & (columns["clean_prediction"] == columns["label"]))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file by name.

    Raises:
        AdvdpnpError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:
        raise AdvdpnpError(f"the file {path} is damaged; delete it and run the same evaluation again") from error


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write what ``read_arrays`` reads, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)
