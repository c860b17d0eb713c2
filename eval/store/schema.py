"""One verdict file: a Parquet table with a row per sample, and how it is written, read and doubted."""

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

# What the search finds for each sample...
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
_LATER = ("stage", "refused")  # columns that older files lack; -1 stands for what they do not tell
# ... and the key it belongs to, which makes every row readable by itself, wherever it is copied.
_WORD = pa.dictionary(pa.int32(), pa.string())
KEY = pa.schema(
    [
        ("weights", _WORD),
        ("data", _WORD),
        ("threat_norm", _WORD),
        ("eps", pa.float64()),
        ("eps_text", _WORD),
        ("attack", _WORD),
        ("definition", _WORD),
    ]
)
SCHEMA = pa.schema([*KEY, *FOUND])

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Verdicts:
    """One verdict file.

    Attributes:
        path: where it is.
        frame: the columns of ``SCHEMA``, sorted by sample.
        info: the JSON metadata: identity, definition, dataset, seed, randomised, runs.
    """

    path: Path
    frame: pd.DataFrame
    info: dict[str, Any]


def read_verdicts(path: Path) -> Verdicts:
    """Read one complete verdict file.

    Raises:
        AdvdpnpError: the file is damaged or is no verdict file.
    """
    table = read_table(path)
    frame = table.replace_schema_metadata(None).to_pandas()
    wrong = _contradiction(frame)
    if wrong:
        raise AdvdpnpError(f"the verdict file {path} was changed: {wrong}; delete it and run the same evaluation again")
    return Verdicts(path, frame, table_info(table, path))


def _contradiction(frame: pd.DataFrame) -> str:
    """What no search can have written, in words; "" if there is nothing of the kind."""
    if frame["sample"].duplicated().any():
        return "it judges samples twice"
    attacked = frame["threat_norm"].notna() & frame["success"] & (frame["clean_prediction"] == frame["label"])
    if not np.isfinite(frame.loc[attacked, "norm"]).all():
        return "samples count as broken by an image at no finite distance"
    return ""


def read_table(path: Path) -> pa.Table:
    """The rows of a complete verdict file or of a part, as ``SCHEMA`` has them, with their metadata.

    Raises:
        AdvdpnpError: the file is damaged or is no verdict file.
    """
    try:
        # A file of its own, not a data set: folder names with "=" in them must not become columns.
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        table.validate(full=True)  # text that is no text would fail much later
    except (pa.ArrowException, ValueError, OSError) as error:
        raise AdvdpnpError(
            f"the verdict file {path} is damaged; delete it and run the same evaluation again, "
            "which searches only what it held"
        ) from error
    for name in _LATER:
        if name not in table.column_names:
            table = table.append_column(name, pa.array([-1] * len(table), pa.int64()))
    if not set(SCHEMA.names) <= set(table.column_names) or METADATA_KEY not in (table.schema.metadata or {}):
        raise AdvdpnpError(f"{path} is not a verdict file of advdpnp; move it out of this folder")
    return table.select(SCHEMA.names).cast(SCHEMA.with_metadata(table.schema.metadata))


def write_table(path: Path, table: pa.Table, info: Mapping[str, Any]) -> None:
    """Write rows, with what ``table_info`` is to read again, and checksums by which a flipped bit is seen."""
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
