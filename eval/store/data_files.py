"""The Parquet files of one model: all verdicts of attacks, all verdicts of corruptions, all adversarial images.

    attacks.parquet       unit, then the columns of ``FOUND``; clean images too
    corruptions.parquet   unit, sample, label, prediction, forwards, borderline
    adversarials.parquet  unit, then the columns of ``IMAGES``

``unit`` is the hash of an evaluation; its rows are contiguous, and ``units.json`` says how many there are. The margin
on corrupted images is not stored: nothing reads it, and it was nine tenths of the bytes.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.untrusted.files import check_file, read_bounded
from advdpnp.eval.store.adversarial_images import LARGEST_IMAGES, Source, images_damaged, read_tables
from advdpnp.eval.store.index import INDEX, DataFile, EvaluationRecord, Index, Kind, read_index
from advdpnp.eval.store.schema import FOUND, damaged, read_parquet

KINDS: tuple[Kind, ...] = ("attacks", "corruptions", "adversarials")

_CELLS = pa.schema(
    [
        ("sample", pa.int64()),
        ("label", pa.int64()),
        ("prediction", pa.int64()),
        ("forwards", pa.int64()),
        ("borderline", pa.bool_()),
    ]
)

_LARGEST = 2**31  # bytes of a data file

T = TypeVar("T")


def data_path(folder: Path, kind: Kind) -> Path:
    """Where a model's data file is."""
    return folder / f"{kind}.parquet"


def new_path(folder: Path, kind: Kind) -> Path:
    """Where its successor is until the index names it."""
    return folder / f"{kind}.parquet.new"


@dataclass(frozen=True)
class EvaluationData:
    """All that one place stores of one evaluation: the data files, a part, or a file of the old layout.

    Attributes:
        record: what the index says, or would say, of these rows.
        verdicts: with the columns of ``FOUND``; sorted by sample if the evaluation is complete.
        images: reads the images, with the columns of ``IMAGES``; None: there are none.
        pictured: reads the samples (int64) whose image was saved, beyond those for figures; None: none was.
    """

    record: EvaluationRecord
    verdicts: pa.Table
    images: Source | None = None
    pictured: Callable[[], np.ndarray] | None = None


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

    def verdicts(self, record: EvaluationRecord) -> pa.Table:
        """The verdicts of one evaluation, with the columns of ``FOUND``.

        Raises:
            AdvdpnpError: the rows in its place are named after another evaluation.
        """
        before = sum(each.rows for each in _before(record, self.index.of_kind(record.kind)))
        rows = self.rows[record.kind].slice(before, record.rows)
        if rows.column("unit").unique().to_pylist() != [record.hash][: record.rows]:
            raise damaged(data_path(self.folder, record.kind))
        return from_stored(record.kind, rows.drop_columns(["unit"]))

    def evaluation(self, record: EvaluationRecord) -> EvaluationData:
        """One evaluation; its images are read when they are asked for. Raises as ``verdicts``."""
        images = partial(read_images, self.folder, record.hash) if record.images else None
        pictured = partial(_samples_of, images) if images is not None and record.saved else None
        return EvaluationData(record, self.verdicts(record), images, pictured)


def _before(record: EvaluationRecord, records: Sequence[EvaluationRecord]) -> Iterator[EvaluationRecord]:
    return takewhile(lambda each: each.hash != record.hash, records)


def _samples_of(images: Source) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *(table.column("sample").to_numpy() for table in images())])


def read_contents(folder: Path) -> Contents | None:
    """What is complete in a model's folder; None if it has no ``units.json``. No lock is needed.

    Raises:
        AdvdpnpError: a file is missing or not the one that the index names.
    """
    found = _find_all(folder, ("attacks", "corruptions"), _read_rows)
    return found and Contents(folder, *found)


def read_images(folder: Path, key_hash: str) -> Iterator[pa.Table]:
    """The images of one complete evaluation as they are now, with the columns of ``IMAGES``; as ``read_contents``."""
    found = _find_all(folder, ("adversarials",), _with_checksum)
    record = found and found[0].find(key_hash)
    if found and record and record.images:
        before = sum(each.images for each in _before(record, found[0].evaluations))
        yield from read_tables(found[1]["adversarials"], before, record.images, unit=record.hash)


def _find_all(
    folder: Path, kinds: Sequence[Kind], read: Callable[[Path, DataFile, object], T | None]
) -> tuple[Index, dict[Kind, T]] | None:
    """The index and what ``read`` makes of the data files that it names, all of one state; None without an index."""
    state: object = None
    while True:
        paths = (folder / INDEX, *(make(folder, kind) for kind in KINDS for make in (data_path, new_path)))
        before, state = state, [_status(path) for path in paths]
        index = read_index(folder)
        if index is None:
            return None
        found = {kind: _find(folder, kind, index.files[kind], read) for kind in kinds if kind in index.files}
        known = {kind: each for kind, each in found.items() if each is not None}
        if len(known) == len(found):
            return index, known
        if before == state:  # no writer is replacing files meanwhile
            raise _missing_or_damaged(folder, next(kind for kind in found if kind not in known))


def _find(folder: Path, kind: Kind, file: DataFile, read: Callable[[Path, DataFile, object], T | None]) -> T | None:
    """What ``read`` makes of the file that the index names, under its final or its first name."""
    for path in (data_path(folder, kind), new_path(folder, kind)):
        try:
            found = read(path, file, _status(path))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise damaged(path) from error
        if found is not None:
            return found
    return None


def _status(path: Path) -> tuple[int, int, int] | None:
    """Another value for every file that takes this place."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _missing_or_damaged(folder: Path, kind: Kind) -> AdvdpnpError:
    path = data_path(folder, kind)
    if kind == "adversarials":
        return images_damaged(path)
    if path.exists() or new_path(folder, kind).exists():
        return damaged(path)
    return AdvdpnpError(f"the verdict file {path} is missing; run the same evaluation again")


@lru_cache(maxsize=8)
def _read_rows(path: Path, file: DataFile, status: object) -> pa.Table | None:
    """The rows of a data file; None if its checksum is another one. ``status`` is part of the key of the cache."""
    try:
        content = read_bounded(path, _LARGEST)
    except ValueError as error:
        raise damaged(path) from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        return None
    schema = row_schema("attacks" if path.name.startswith("attacks") else "corruptions")
    table = read_parquet(io.BytesIO(content), path, schema)
    if len(table) != file.rows or table.column_names != schema.names:
        raise damaged(path)
    try:
        return table.cast(schema)
    except pa.ArrowException as error:
        raise damaged(path) from error


@lru_cache(maxsize=64)
def _with_checksum(path: Path, file: DataFile, status: object) -> Path | None:
    """The path if the file has this checksum; images are not read into memory. ``status`` as above."""
    try:
        check_file(path, LARGEST_IMAGES)
    except ValueError as error:
        raise images_damaged(path) from error
    return path if sha256_of(path) == file.sha256 else None


def sha256_of(path: Path) -> str:
    """Of all bytes of a file, hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def row_schema(kind: Kind) -> pa.Schema:
    """The columns of a data file of verdicts."""
    unit = pa.field("unit", pa.dictionary(pa.int32(), pa.string()))
    return pa.schema([unit, *(FOUND if kind == "attacks" else _CELLS)])


def as_stored(kind: Kind, verdicts: pa.Table) -> pa.Table:
    """Verdicts with the columns of ``FOUND`` as they are stored, without ``unit``."""
    if kind == "attacks":
        return verdicts
    columns = ["sample", "label", "adversarial_prediction", "forwards", "borderline"]
    return verdicts.select(columns).rename_columns(_CELLS.names)


def from_stored(kind: Kind, rows: pa.Table) -> pa.Table:
    """Verdicts with the columns of ``FOUND`` from what ``as_stored`` has made of them."""
    return rows if kind == "attacks" else _from_cells(rows)


def _from_cells(rows: pa.Table) -> pa.Table:
    """Rows of corruptions as verdicts: nothing was searched, so all that is not stored is a constant."""
    n, prediction, label = len(rows), rows.column("prediction"), rows.column("label")
    columns = {
        **{name: rows.column(name) for name in ("sample", "label", "forwards", "borderline")},
        **dict.fromkeys(("clean_prediction", "adversarial_prediction"), prediction),
        **dict.fromkeys(("backwards", "stage", "refused"), np.zeros(n, np.int64)),
        "success": prediction.to_numpy() != label.to_numpy(),
        "norm": np.zeros(n),
        "margin": np.full(n, np.nan, np.float32),
        "zero_gradient": np.zeros(n, bool),
    }
    return pa.table(columns, schema=FOUND)
