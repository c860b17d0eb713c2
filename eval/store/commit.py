"""Making evaluations complete: new data files, then the index that names them.

How a new file takes the place of an old one: it is written as ``attacks.parquet.new``; then ``units.json``, which holds
its SHA-256, is replaced (the commit); then it is renamed. So after a crash at any point one of the two files is the one
that ``units.json`` names: a reader takes whichever has that checksum, and the next writer finishes or undoes the rest.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from advdpnp.base.files import atomic_path
from advdpnp.eval.store.adversarial_images import images_damaged, read_tables, write_images
from advdpnp.eval.store.data_files import (
    KINDS,
    Contents,
    as_stored,
    data_path,
    find_images,
    images_before,
    new_path,
    row_schema,
    sha256_of,
)
from advdpnp.eval.store.index import (
    ADVERSARIALS,
    ATTACKS,
    DataFile,
    EvaluationRecord,
    Index,
    Kind,
    read_index,
    write_index,
)

_ENCODINGS = {  # all other columns of integers and text are dictionaries
    "sample": "DELTA_BINARY_PACKED",
    "forwards": "DELTA_BINARY_PACKED",
    "backwards": "DELTA_BINARY_PACKED",
    "norm": "BYTE_STREAM_SPLIT",
    "margin": "BYTE_STREAM_SPLIT",
}

Write = Callable[[Path], None]


@dataclass(frozen=True)
class Complete:
    """An evaluation that is to be complete.

    Attributes:
        record: what the index is to say of it; ``images`` is counted.
        verdicts: with the columns of ``FOUND``, sorted by sample.
        images: with the columns of ``IMAGES``; None: it has none, and none are stored.
    """

    record: EvaluationRecord
    verdicts: pa.Table
    images: Iterator[pa.Table] | None = None


def commit(before: Contents, complete: Sequence[Complete]) -> None:
    """Add evaluations to what is complete in a folder, or put them in the place of those with the same hash."""
    given = {each.record.hash: each for each in complete}
    index = before.index.with_evaluations([each.record for each in complete])
    new: dict[Kind, Path | None] = {}
    if any(each.images is not None for each in complete):
        index, new[ADVERSARIALS] = _write_images(before, index, given)
    for kind in {each.record.kind for each in complete}:
        pieces = [
            (each.hash, as_stored(kind, given[each.hash].verdicts) if each.hash in given else before.stored_rows(each))
            for each in index.of_kind(kind)
        ]
        new[kind] = _write(before.folder, kind, partial(_write_rows, kind, pieces))
    _replace(before.folder, index, new)


def _write_images(before: Contents, index: Index, given: Mapping[str, Complete]) -> tuple[Index, Path | None]:
    """Write all images anew; returns the index with their numbers, and the file, or None if there are no images."""
    old = find_images(before.folder, before.index) if ADVERSARIALS in before.index.files else None
    if old is None and ADVERSARIALS in before.index.files:
        raise images_damaged(data_path(before.folder, ADVERSARIALS))
    counts: dict[str, int] = {}

    def tables() -> Iterator[pa.Table]:
        for record in index.evaluations:
            known = before.index.find(record.hash)
            if record.hash in given:
                pieces = given[record.hash].images or iter(())
            elif old is not None and known is not None and known.images:
                pieces = read_tables(old, images_before(before.index, known), known.images, unit=known.hash)
            else:
                continue
            for piece in pieces:
                counts[record.hash] = counts.get(record.hash, 0) + len(piece)
                codes = pa.array(np.zeros(len(piece), np.int32))
                unit = pa.DictionaryArray.from_arrays(codes, pa.array([record.hash]))
                yield piece.add_column(0, "unit", unit)

    written = _write(before.folder, ADVERSARIALS, lambda path: write_images(path, tables()))
    records = [replace(each, images=counts.get(each.hash, 0)) for each in index.evaluations]
    if not counts:
        written.unlink()
    return replace(index, evaluations=tuple(records)), written if counts else None


def _write_rows(kind: Kind, pieces: Sequence[tuple[str, pa.Table]], path: Path) -> None:
    codes = np.repeat(np.arange(len(pieces), dtype=np.int32), [len(rows) for _, rows in pieces])
    unit = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array([name for name, _ in pieces], pa.string()))
    table = pa.concat_tables([rows for _, rows in pieces])
    table = pa.Table.from_arrays([unit, *table.columns], schema=row_schema(kind))
    encodings = {name: each for name, each in _ENCODINGS.items() if name in table.column_names}
    others = [f.name for f in table.schema if f.name not in encodings and not pa.types.is_boolean(f.type)]
    with open(path, "wb") as stream:
        pq.write_table(
            table, stream, compression="zstd", compression_level=9, write_page_checksum=True, write_statistics=False,
            use_dictionary=others, column_encoding=encodings,
        )  # fmt: skip


def _write(folder: Path, kind: Kind, write: Callable[[Path], None]) -> Path:
    path = new_path(folder, kind)
    with atomic_path(path) as temporary:
        write(temporary)
    return path


def _replace(folder: Path, index: Index, new: Mapping[Kind, Path | None]) -> None:
    """The commit: the index that names the new files (None: there is no such file any more), then their names."""
    files = dict(index.files)
    for kind, path in new.items():
        files.pop(kind, None)
        if path is not None:
            rows = sum(each.images if kind == ADVERSARIALS else each.rows for each in index.of_kind(kind))
            files[kind] = DataFile(sha256_of(path), rows)
    write_index(folder, replace(index, files=files))
    for kind, path in new.items():
        if path is not None:
            os.replace(path, data_path(folder, kind))
        else:
            data_path(folder, kind).unlink(missing_ok=True)


def finish_commit(folder: Path) -> None:
    """Finish or undo what a killed writer has begun; forget evaluations whose file somebody has deleted."""
    index = read_index(folder)
    for kind in KINDS:
        path, new = data_path(folder, kind), new_path(folder, kind)
        if new.exists():
            if index is not None and kind in index.files and sha256_of(new) == index.files[kind].sha256:
                os.replace(new, path)
            else:
                new.unlink()
    if index is None:
        return
    lost = {kind for kind in index.files if not data_path(folder, kind).exists()}
    if ATTACKS in lost:
        lost.add(ADVERSARIALS)
    if lost:
        kept = [
            replace(record, images=0, saved=False) if ADVERSARIALS in lost else record
            for record in index.evaluations
            if record.kind not in lost
        ]
        files = {kind: file for kind, file in index.files.items() if kind not in lost}
        write_index(folder, replace(index, evaluations=tuple(kept), files=files))
    for kind in set(KINDS) - (set(index.files) - lost):
        data_path(folder, kind).unlink(missing_ok=True)
