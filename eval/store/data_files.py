"""The Parquet files of one model: all verdicts of attacks, all verdicts of corruptions, all adversarial images.

    attacks.parquet       unit, then the columns of ``FOUND``; clean images too
    corruptions.parquet   unit, sample, label, prediction, forwards, borderline
    adversarials.parquet  unit, then the columns of ``IMAGES``

``unit`` is the hash of an evaluation; its rows are contiguous, and ``units.json`` says how many there are. The margin
on corrupted images is not stored: nothing reads it, and it was nine tenths of the bytes.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.store.adversarial_images import images_damaged, read_tables
from advdpnp.eval.store.index import (
    ADVERSARIALS,
    ATTACKS,
    CORRUPTIONS,
    INDEX,
    DataFile,
    EvaluationRecord,
    Index,
    Kind,
    read_index,
)
from advdpnp.eval.store.schema import FOUND, damaged

KINDS: tuple[Kind, ...] = (ATTACKS, CORRUPTIONS, ADVERSARIALS)
_VERDICTS: tuple[Kind, ...] = (ATTACKS, CORRUPTIONS)

_CELLS = pa.schema(
    [
        ("sample", pa.int64()),
        ("label", pa.int64()),
        ("prediction", pa.int64()),
        ("forwards", pa.int64()),
        ("borderline", pa.bool_()),
    ]
)


def data_path(folder: Path, kind: Kind) -> Path:
    """Where a model's data file is."""
    return folder / f"{kind}.parquet"


def new_path(folder: Path, kind: Kind) -> Path:
    return folder / f"{kind}.parquet.new"


@dataclass(frozen=True)
class Contents:
    """One consistent state of a model's folder.

    Attributes:
        folder: where it is.
        index: what is complete.
        rows: by kind, the rows of the data files of verdicts, as they are stored.
    """

    folder: Path
    index: Index
    rows: Mapping[Kind, pa.Table]

    def stored_rows(self, record: EvaluationRecord) -> pa.Table:
        """The rows of one evaluation as they are stored, without ``unit``.

        Raises:
            AdvdpnpError: they are named after another evaluation.
        """
        others = takewhile(lambda each: each.hash != record.hash, self.index.of_kind(record.kind))
        before = sum(each.rows for each in others)
        rows = self.rows[record.kind].slice(before, record.rows)
        if rows.column("unit").unique().to_pylist() != [record.hash][: record.rows]:
            raise damaged(data_path(self.folder, record.kind))
        return rows.drop_columns(["unit"])

    def verdicts(self, record: EvaluationRecord) -> pa.Table:
        """The verdicts of one evaluation, with the columns of ``FOUND``."""
        return from_stored(record.kind, self.stored_rows(record))


def read_contents(folder: Path) -> Contents | None:
    """What is complete in a model's folder; None if it has no ``units.json``. No lock is needed.

    Raises:
        AdvdpnpError: a file is damaged, missing or not the one that the index names.
    """
    state: object = None
    while True:
        before, state = state, _state(folder)
        index = read_index(folder)
        if index is None:
            return None
        rows = {kind: _find_rows(folder, kind, index.files[kind]) for kind in _VERDICTS if kind in index.files}
        lacking = [kind for kind in rows if rows[kind] is None]
        if not lacking:
            return Contents(folder, index, {kind: table for kind, table in rows.items() if table is not None})
        if before == state:  # no writer is replacing files meanwhile
            raise missing_or_damaged(folder, lacking[0])


def missing_or_damaged(folder: Path, kind: Kind) -> AdvdpnpError:
    """What to say where no data file is the one that the index names."""
    path = data_path(folder, kind)
    if path.exists() or new_path(folder, kind).exists():
        return damaged(path)
    return AdvdpnpError(f"the verdict file {path} is missing; run the same evaluation again")


def _state(folder: Path) -> object:
    found = []
    for path in (folder / INDEX, *(make(folder, kind) for kind in KINDS for make in (data_path, new_path))):
        with suppress(OSError):
            status = path.stat()
            found.append((path, status.st_mtime_ns, status.st_size, status.st_ino))
    return found


def _find_rows(folder: Path, kind: Kind, file: DataFile) -> pa.Table | None:
    """The rows of the data file with the right checksum; None if there is none."""
    for path in (data_path(folder, kind), new_path(folder, kind)):
        with suppress(FileNotFoundError):
            status = path.stat()
            table = _read_rows(path, file, (status.st_mtime_ns, status.st_size, status.st_ino))
            if table is not None:
                return table
    return None


@lru_cache(maxsize=8)
def _read_rows(path: Path, file: DataFile, status: object) -> pa.Table | None:
    """The rows of a data file; None if its checksum is another one. ``status`` is part of the key of the cache."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise damaged(path) from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        return None
    try:
        table = pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True).read()
        table.validate(full=True)
        schema = row_schema(data_kind(path))
        if len(table) != file.rows or table.column_names != schema.names:
            raise ValueError("other columns or another number of rows")
        return table.cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise damaged(path) from error


def data_kind(path: Path) -> Kind:
    """What a data file holds."""
    return next(kind for kind in KINDS if path.name.startswith(kind))


def read_images(folder: Path, key_hash: str) -> Iterator[pa.Table]:
    """The images of one complete evaluation as they are now, with the columns of ``IMAGES``. No lock is needed.

    Raises:
        AdvdpnpError: the file is damaged, missing or not the one that the index names.
    """
    state: object = None
    while True:
        before, state = state, _state(folder)
        index = read_index(folder)
        record = None if index is None else index.find(key_hash)
        if index is None or record is None or not record.images:
            return
        path = find_images(folder, index)
        if path is not None:
            yield from read_tables(path, images_before(index, record), record.images, unit=record.hash)
            return
        if before == state:
            raise images_damaged(data_path(folder, ADVERSARIALS))


def images_before(index: Index, record: EvaluationRecord) -> int:
    """Where the rows of an evaluation begin in the file of images."""
    return sum(each.images for each in takewhile(lambda each: each.hash != record.hash, index.evaluations))


def find_images(folder: Path, index: Index) -> Path | None:
    """The file of adversarial images with the right checksum; None if there is none."""
    for path in (data_path(folder, ADVERSARIALS), new_path(folder, ADVERSARIALS)):
        with suppress(FileNotFoundError):
            status = path.stat()
            found = _known_sha256(path, (status.st_mtime_ns, status.st_size, status.st_ino))
            if found == index.files[ADVERSARIALS].sha256:
                return path
    return None


@lru_cache(maxsize=64)
def _known_sha256(path: Path, status: object) -> str:
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    """Of all bytes of a file, hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def row_schema(kind: Kind) -> pa.Schema:
    unit = pa.field("unit", pa.dictionary(pa.int32(), pa.string()))
    return pa.schema([unit, *(FOUND if kind == ATTACKS else _CELLS)])


def as_stored(kind: Kind, verdicts: pa.Table) -> pa.Table:
    """Verdicts with the columns of ``FOUND`` as they are stored, without ``unit``."""
    if kind == ATTACKS:
        return verdicts.replace_schema_metadata(None)
    columns = ["sample", "label", "adversarial_prediction", "forwards", "borderline"]
    return verdicts.select(columns).rename_columns(_CELLS.names).replace_schema_metadata(None)


def from_stored(kind: Kind, rows: pa.Table) -> pa.Table:
    """Verdicts with the columns of ``FOUND`` from what ``as_stored`` has made of them."""
    return rows if kind == ATTACKS else _from_cells(rows)


def _from_cells(rows: pa.Table) -> pa.Table:
    """Rows of corruptions as verdicts: nothing was searched, so all that is not stored is a constant."""
    n, prediction, label = len(rows), rows.column("prediction"), rows.column("label")
    zeros, never = pa.array(np.zeros(n, np.int64)), pa.array(np.zeros(n, bool))
    columns = {
        "sample": rows.column("sample"),
        "label": label,
        "clean_prediction": prediction,
        "adversarial_prediction": prediction,
        "success": pa.array(prediction.to_numpy() != label.to_numpy()),
        "norm": pa.array(np.zeros(n)),
        "margin": pa.array(np.full(n, np.nan, np.float32)),
        "forwards": rows.column("forwards"),
        "backwards": zeros,
        "zero_gradient": never,
        "borderline": rows.column("borderline"),
        "stage": zeros,
        "refused": zeros,
    }
    return pa.Table.from_arrays([columns[name] for name in FOUND.names], schema=FOUND)
