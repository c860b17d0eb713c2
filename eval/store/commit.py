"""Making evaluations complete: new data files, then the index that names them.

How a new file takes the place of an old one: it is written as ``attacks.parquet.new``; then ``units.json``, which holds
its SHA-256, is replaced (the commit); then it is renamed. So after a crash at any point one of the two files is the one
that ``units.json`` names: a reader takes whichever has that checksum, and the next writer finishes or undoes the rest.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from advdpnp.base.files import atomic_path
from advdpnp.eval.store.adversarial_images import write_adversarials
from advdpnp.eval.store.data_files import (
    KINDS,
    Contents,
    EvaluationData,
    as_stored,
    data_path,
    new_path,
    row_schema,
    sha256_of,
)
from advdpnp.eval.store.index import DataFile, EvaluationRecord, Index, Kind, read_index, write_index

_ENCODINGS = {  # all other columns of integers and text are dictionaries
    "sample": "DELTA_BINARY_PACKED",
    "forwards": "DELTA_BINARY_PACKED",
    "backwards": "DELTA_BINARY_PACKED",
    "norm": "BYTE_STREAM_SPLIT",
    "margin": "BYTE_STREAM_SPLIT",
}


def commit(before: Contents, complete: Sequence[EvaluationData]) -> None:
    """Add evaluations to what is complete in a folder, or put them in the place of those with the same hash.

    Images are counted here, whatever the records say. Those of all evaluations are written anew if a given one has any.
    """
    given = {each.record.hash: each for each in complete}
    index = before.index.with_evaluations([each.record for each in complete])

    def data(record: EvaluationRecord) -> EvaluationData:
        return given[record.hash] if record.hash in given else before.evaluation(record)

    new: dict[Kind, Path | None] = {}
    if any(each.images is not None for each in complete):
        index, new["adversarials"] = _write_images(before.folder, index, data)
    for kind in {each.record.kind for each in complete}:
        new[kind] = _write_verdicts(before.folder, kind, [data(record) for record in index.of_kind(kind)])
    _replace(before.folder, index, new)


def _write_images(
    folder: Path, index: Index, data: Callable[[EvaluationRecord], EvaluationData]
) -> tuple[Index, Path | None]:
    """Write all images anew; returns the index with their numbers, and the file, or None if there are no images."""
    counts = dict.fromkeys((record.hash for record in index.evaluations), 0)

    def tables() -> Iterator[pa.Table]:
        for record in index.evaluations:
            images = data(record).images
            for table in images() if images is not None else ():
                counts[record.hash] += len(table)
                yield table.add_column(0, "unit", _unit([record.hash], [len(table)]))

    path = new_path(folder, "adversarials")
    write_adversarials(path, tables())
    if not any(counts.values()):
        path.unlink()
    records = tuple(replace(each, images=counts[each.hash]) for each in index.evaluations)
    return replace(index, evaluations=records), path if any(counts.values()) else None


def _write_verdicts(folder: Path, kind: Kind, evaluations: Sequence[EvaluationData]) -> Path:
    unit = _unit([each.record.hash for each in evaluations], [len(each.verdicts) for each in evaluations])
    table = pa.concat_tables([as_stored(kind, each.verdicts) for each in evaluations])
    table = pa.Table.from_arrays([unit, *table.columns], schema=row_schema(kind))
    encodings = {name: each for name, each in _ENCODINGS.items() if name in table.column_names}
    others = [f.name for f in table.schema if f.name not in encodings and not pa.types.is_boolean(f.type)]
    path = new_path(folder, kind)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        pq.write_table(
            table, stream, compression="zstd", compression_level=9, write_page_checksum=True, write_statistics=False,
            use_dictionary=others, column_encoding=encodings,
        )  # fmt: skip
    return path


def _unit(hashes: Sequence[str], rows: Sequence[int]) -> pa.DictionaryArray:
    """The column that names the evaluation of each row."""
    codes = np.repeat(np.arange(len(hashes), dtype=np.int32), rows)
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(hashes, pa.string()))


def _replace(folder: Path, index: Index, new: Mapping[Kind, Path | None]) -> None:
    """The commit: the index that names the new files (None: there is no such file any more), then their names."""
    files = dict(index.files)
    for kind, path in new.items():
        files.pop(kind, None)
        if path is not None:
            rows = sum(each.images if kind == "adversarials" else each.rows for each in index.of_kind(kind))
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
    if "attacks" in lost:
        lost.add("adversarials")
    if lost:
        kept = [
            replace(record, images=0, saved=False) if "adversarials" in lost else record
            for record in index.evaluations
            if record.kind not in lost
        ]
        files = {kind: file for kind, file in index.files.items() if kind not in lost}
        write_index(folder, replace(index, evaluations=tuple(kept), files=files))
    for kind in set(KINDS) - (set(index.files) - lost):
        data_path(folder, kind).unlink(missing_ok=True)
