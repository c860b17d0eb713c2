"""The rows of verdicts and what is said beside them: schemas, how tables are read and written, what is refused."""

import contextlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from advdpnp.attacks.threat import NORMS
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import atomic_path
from advdpnp.base.untrusted.files import STRICT, Count, Name, Text, describe_fault, open_arrays, parse_json, problem
from advdpnp.base.untrusted.parquet import check_pages
from advdpnp.eval.store.key import CLEAN, CORRUPTION, check_label

METADATA_KEY = b"advdpnp"

MOST_ROWS = 10_000_000
"""Rows of a file: 50,000 images of ImageNet under 200 attacks, or in two seeds of 95 corruptions."""

_COLUMN_BYTES, _ROW_BYTES = 2**22, 64  # that a column unpacks to at most: its words, and 8 bytes a row

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
_OPTIONAL = (*_LATER, "eps_text")

Columns = Mapping[str, np.ndarray]


class _Part(BaseModel):
    """What is read of a mapping that may hold more: attacks of users say what they like in their definitions."""

    model_config = STRICT | ConfigDict(extra="ignore")


class _Threat(_Part):
    norm: Text
    eps: Annotated[float, Field(ge=0)]


class _Identity(_Part):
    label: Name
    data: Text
    threat: _Threat | None
    source: Text = ""
    attack: dict[str, Any] | None = None
    precision: Text = ""
    shape: Count | None = None
    batch_size: Count | None = None


class _Corruption(_Part):
    corruption: Name
    severity: Annotated[int, Field(ge=1, le=5)]
    seed: Count | None = None
    version: Count | None = None


class _Run(_Part):
    seconds: Annotated[float, Field(ge=0)]
    samples: Count = 0
    versions: dict[Name, Text] = {}
    device: Text = ""
    command: Annotated[str, Field(max_length=100_000)] = ""
    date: Text = ""
    copy_differs: bool = False
    parted: Count = 0
    timed: dict[Name, Annotated[float, Field(ge=0)]] = {}
    attacks: list[Name] = []
    gradients: dict[Name, float] = {}  # where they point, by sample
    judged: Annotated[str, Field(max_length=2**22, pattern=r"^[0-9,-]*$")] = ""  # samples, where devices differ


class _Metadata(_Part):
    dataset: Text | None = None
    test_images: Count | None = None
    seed: Count | None = None
    randomised: bool = False
    batch_dependent: bool = False
    attack_info: dict[str, Any] | None = None


def check_identity(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity as ``EvaluationKey`` has it, unchanged, for it is hashed.

    Raises:
        ValueError: it has no label, data or threat model, or its label is that of something else.
    """
    read = _read_as(_Identity, identity, "identity")
    try:
        check_label(read.label, read.threat is not None)
    except AdvdpnpError as error:
        raise ValueError(str(error)) from None
    if read.threat is not None and read.threat.norm not in NORMS:
        raise ValueError(f"identity.threat.norm cannot be {read.threat.norm}: there are {', '.join(NORMS)}")
    if read.threat is None and read.label != (wanted := _label_without_attack(identity)):
        raise ValueError(f"identity.label cannot be {read.label}: without an attack it is {wanted}")
    return identity


def _label_without_attack(identity: Mapping[str, Any]) -> str:
    if "corruption" not in identity:
        return CLEAN
    cell = _read_as(_Corruption, identity["corruption"], "identity.corruption")
    return f"{CORRUPTION}{cell.corruption}/{cell.severity}"


def check_run(run: dict[str, Any]) -> dict[str, Any]:
    """What is said of a run; raises a ValueError as ``check_identity``."""
    _read_as(_Run, run, "runs")
    return run


def check_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """What else is known of an evaluation; raises a ValueError as ``check_identity``."""
    _read_as(_Metadata, metadata, "metadata")
    return metadata


def _read_as(schema: type[Any], value: Any, what: str) -> Any:
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise ValueError(f"{what}.{problem(error)}") from None


@dataclass(frozen=True)
class Verdicts:
    """The verdicts of one complete evaluation.

    Attributes:
        path: the file that holds them.
        table: gives the columns of ``FOUND``, sorted by sample.
        info: the JSON metadata: identity, dataset, seed, randomised, batch_dependent, runs.
        kept: columns that are in memory, where ``table`` reads the others from the file.
    """

    path: Path
    table: Callable[[], pa.Table]
    info: dict[str, Any]
    kept: Mapping[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All columns."""
        found: pd.DataFrame = self.table().to_pandas()
        return found

    def column(self, name: str) -> np.ndarray:
        """One column, (n,)."""
        found = self.kept.get(name)
        return self.table().column(name).to_numpy() if found is None else found


def to_verdicts(path: Path, table: pa.Table, info: dict[str, Any]) -> Verdicts:
    """Verdicts of rows that were read from ``path``.

    Raises:
        AdvdpnpError: no search can have written these rows.
    """
    if empty := [name for name in FOUND.names if table.column(name).null_count]:
        raise changed(path, f"some rows have no {empty[0]}")
    sample = table.column("sample").to_numpy()
    if len(np.unique(sample)) != len(sample):
        raise changed(path, "it judges samples twice")
    for name, (low, high) in _RANGES.items():
        values = table.column(name).to_numpy()
        if len(values) and not low <= values.min() <= values.max() <= high:  # nor where one is NaN
            raise changed(path, f"it has a {name} that is none")
    return Verdicts(path, lambda: table, info)


_RANGES = {
    "sample": (0, 2**40), "label": (0, 10**6), "clean_prediction": (-1, 10**6), "adversarial_prediction": (-1, 10**6),
    "norm": (0.0, np.inf), "forwards": (0, 2**40), "backwards": (0, 2**40), "stage": (-1, 10**4),
    "refused": (-1, 2**40),
}  # fmt: skip
"""What a search can find. A prediction of -1 stands for logits that are not finite."""


def changed(path: Path, why: str) -> AdvdpnpError:
    """The error for a file that no evaluation has written like this."""
    return AdvdpnpError(f"the verdict file {path} was changed: {why}; delete it and run the same evaluation again")


def read_table(
    path: Path, schema: pa.Schema = FOUND, names: Collection[str] = ("identity", "runs")
) -> tuple[pa.Table, dict[str, Any]]:
    """The columns of a file that ``write_table`` wrote, and its JSON metadata, which must have ``names``.

    Raises:
        AdvdpnpError: it is another kind of file.
    """
    try:
        # A stream: in a path, pyarrow takes "=" for a column and "a:" for the scheme of a URL.
        with open(path, "rb") as stream:
            table = read_parquet(stream, path, schema)
    except OSError as error:
        raise damaged(path) from error
    metadata = table.schema.metadata or {}
    if METADATA_KEY not in metadata:
        raise stranger(path)
    try:
        info: dict[str, Any] = parse_json(metadata[METADATA_KEY])
        if not isinstance(info, dict) or (missing := sorted(set(names) - set(info))):
            raise ValueError(f"{missing[0]} is missing" if isinstance(info, dict) else "it is no mapping")
        check_identity(info["identity"])
        if not isinstance(info["runs"], list) or not info["runs"]:
            raise ValueError("there are no runs")
        for run in info["runs"]:
            check_run(run)
        check_metadata(info.get("metadata", info))
    except ValueError as error:
        raise AdvdpnpError(
            f"the metadata of {path} are damaged ({describe_fault(error)}); delete it and run the same evaluation again"
        ) from error
    return table.replace_schema_metadata(None), info


def read_parquet(source: BinaryIO, path: Path, schema: pa.Schema) -> pa.Table:
    """Columns of a Parquet file that was opened at ``path``, its page checksums verified.

    Args:
        schema: the columns that are read, and no others; those of ``_OPTIONAL`` may be missing.

    Raises:
        AdvdpnpError: it is damaged, lacks a column, has one of another type, or has more than ``MOST_ROWS`` rows.
    """
    try:
        with pq.ParquetFile(source) as file:
            held, footer, rows = file.schema_arrow, file.metadata, file.metadata.num_rows
        names = [name for name in schema.names if name not in _OPTIONAL or name in held.names]
        if not set(names) <= set(held.names):
            raise stranger(path)
        for name in names:
            if held.names.count(name) > 1:
                raise changed(path, f"it has two columns {name}")
            if _kind(held.field(name).type) != _kind(schema.field(name).type):
                raise changed(path, f"its column {name} has {held.field(name).type} values")
        if rows > MOST_ROWS:
            raise changed(path, f"it has {rows:,} rows, more than {MOST_ROWS:,}")
        check_pages(source, footer, names, _COLUMN_BYTES + _ROW_BYTES * rows)
        words = [name for name in names if pa.types.is_string(_kind(schema.field(name).type))]
        with pq.ParquetFile(source, page_checksum_verification=True, read_dictionary=words) as file:
            table = file.read(columns=names)
        table.validate(full=True)  # text that is no text would fail much later
    except (pa.ArrowException, ValueError, OSError, KeyError) as error:
        raise damaged(path) from error
    return table


def _kind(kind: pa.DataType) -> pa.DataType:
    """The type of the values, which words may have by dictionary."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


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
        with open_arrays(path) as stored:
            return dict(stored)
    except (OSError, ValueError, MemoryError) as error:
        raise AdvdpnpError(
            f"the file {path} is damaged ({describe_fault(error)}); delete it and run the same evaluation again"
        ) from error


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write what ``read_arrays`` reads, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)
