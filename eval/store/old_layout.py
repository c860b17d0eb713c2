"""The layout of before: one Parquet file per evaluation, and its conversion into today's.

    <evaluation>.parquet       its verdicts, with the identity and the runs in the metadata
    <evaluation>.adversarials  images of misclassified samples
    <evaluation>.examples.npz  clean and adversarial images of the first samples
    <evaluation>.parts/        what an unfinished evaluation has found
    sanity-*.json              one measurement each

Every command still reads such folders; ``convert`` makes today's of them, and an evaluation that writes into one does.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pydantic import TypeAdapter

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.store.adversarial_images import (
    IMAGES,
    SUFFIX,
    choose_images,
    read_samples,
    read_tables,
    to_table,
    write_adversarials,
)
from advdpnp.eval.store.commit import Complete, commit
from advdpnp.eval.store.data_files import Contents, data_path, read_contents
from advdpnp.eval.store.data_files import read_images as read_new_images
from advdpnp.eval.store.diagnostics_record import DiagnosticRecord, check_diagnostics
from advdpnp.eval.store.index import ATTACKS, EvaluationRecord, Index
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.schema import (
    FOUND,
    METADATA_KEY,
    as_found,
    read_arrays,
    read_parquet,
    table_info,
    write_table,
)

_DIAGNOSTICS = TypeAdapter(DiagnosticRecord)
_KEY = ("weights", "data", "threat_norm", "eps", "eps_text", "attack", "definition")
_EXAMPLES = ".examples.npz"
_BESIDE = (f"*{SUFFIX}", f"*{_EXAMPLES}", "sanity-*.json")


@dataclass(frozen=True)
class OldEvaluation:
    """One complete verdict file.

    Attributes:
        path: the file.
        record: what the index of today's layout says of it.
        table: its verdicts, with the columns of ``FOUND``.
    """

    path: Path
    record: EvaluationRecord
    table: pa.Table


def read_folder(folder: Path, model: ModelRecord) -> list[OldEvaluation]:
    """All complete verdict files of a model, sorted by name.

    Raises:
        AdvdpnpError: one is damaged, or about another model.
    """
    found = [read_old(path, model) for path in verdict_files(folder)]
    return [each for each in found if len(each.table)]


def verdict_files(folder: Path) -> list[Path]:
    """The complete verdict files of a model, sorted."""
    todays = {data_path(folder, kind) for kind in ("attacks", "corruptions", "adversarials")}
    return sorted(path for path in folder.glob("*.parquet") if path not in todays)


def read_old(path: Path, model: ModelRecord) -> OldEvaluation:
    """One complete verdict file. Raises as ``read_folder``."""
    table = read_parquet(path)
    if METADATA_KEY not in (table.schema.metadata or {}) or not set(_KEY) <= set(table.column_names):
        raise AdvdpnpError(f"{path} is not a verdict file of advdpnp; move it out of this folder")
    info = table_info(table, path)
    key = {name: table.column(name).unique().to_pylist() for name in _KEY}
    if set(key["weights"]) - {model.weights_hash}:
        raise AdvdpnpError(
            f"{path} holds verdicts of another model than model.json beside it tells; move it back or delete it"
        )
    if any(len(values) > 1 for values in key.values()):
        raise _changed(path, "its rows are of several searches")
    verdicts = as_found(table, path).replace_schema_metadata(None)
    identity = info.pop("identity")
    threat = identity.get("threat")
    if len(table) and (key["data"], key["eps"]) != ([identity.get("data")], [threat and threat["eps"]]):
        raise _changed(path, "its rows and its definition differ")
    pictures = read_arrays(path.with_suffix(_EXAMPLES)) if path.with_suffix(_EXAMPLES).exists() else None
    record = EvaluationRecord(
        hash=next(iter(key["definition"]), ""),
        identity=identity,
        eps_text=next(iter(key["eps_text"]), None) or "",
        rows=len(table),
        runs=info.pop("runs"),
        metadata={name: value for name, value in info.items() if name != "model"},
        images=int(bool(_image_sources(path))),  # nobody has counted them
        image_shape=() if pictures is None else tuple(pictures["x"].shape[1:]),
        saved=images_path(path).exists(),
    )
    return OldEvaluation(path, record, verdicts)


def _changed(path: Path, why: str) -> AdvdpnpError:
    return AdvdpnpError(f"the verdict file {path} was changed: {why}; delete it and run the same evaluation again")


def images_path(path: Path) -> Path:
    """Where the images of a verdict file are."""
    return path.with_suffix(SUFFIX)


def read_images(path: Path) -> Iterator[pa.Table]:
    """The images of a verdict file, with the columns of ``IMAGES``: each sample's once, clean ones of the first."""
    sample = read_parquet(path).column("sample").to_numpy()
    return choose_images(_image_sources(path), np.unique(sample), read_samples(images_path(path)))


def _image_sources(path: Path) -> list[Callable[[], Iterator[pa.Table]]]:
    sources: list[Callable[[], Iterator[pa.Table]]] = []
    if images_path(path).exists():
        sources.append(partial(read_tables, images_path(path)))
    if path.with_suffix(_EXAMPLES).exists():
        sources.append(partial(_examples, path.with_suffix(_EXAMPLES)))
    return sources


def _examples(path: Path) -> Iterator[pa.Table]:
    stored = read_arrays(path)
    x_adv, x = (torch.from_numpy(np.asarray(stored[name], np.float32)) for name in ("x_adv", "x"))
    if len(x):
        yield to_table(np.asarray(stored["sample"], np.int64), [None] * len(x), x_adv, x)


def read_diagnostics(folder: Path) -> tuple[DiagnosticRecord, ...]:
    """The measurements in ``sanity-*.json``.

    Raises:
        AdvdpnpError: a file is damaged.
    """
    found = []
    for path in sorted(folder.glob("sanity-*.json")):
        try:
            record = _DIAGNOSTICS.validate_json(path.read_bytes(), strict=True)
            check_diagnostics(record)
        except (OSError, ValueError) as error:
            raise AdvdpnpError(f"{path} is damaged; delete it and run the same evaluation again") from error
        found.append(record)
    return tuple(found)


def is_old(folder: Path) -> bool:
    """Whether a model's folder has files of the old layout."""
    return bool(verdict_files(folder)) or any(next(folder.glob(pattern), None) for pattern in ("?*.parts", *_BESIDE))


def convert(folder: Path, model: ModelRecord) -> int:
    """Make today's layout of a model's folder whose lock is held; returns the number of evaluations converted.

    Old files are removed only when today's are complete and were read back equal. Killed at any point, it can be called
    again.

    Raises:
        AdvdpnpError: a file is damaged, or is not read back as it was.
    """
    old = read_folder(folder, model)
    before = read_contents(folder) or Contents(folder, Index(model.weights_hash), {})
    known = {record.hash: record.rows for record in before.index.evaluations}
    new = [each for each in old if known.get(each.record.hash, 0) < each.record.rows]
    keys = {each.key for each in before.index.diagnostics}
    measured = tuple(each for each in read_diagnostics(folder) if each.key not in keys)
    if new or measured:
        index = replace(before.index, diagnostics=(*before.index.diagnostics, *measured))
        commit(
            replace(before, index=index),
            [Complete(each.record, each.table, read_images(each.path) if each.record.images else None) for each in new],
        )
        _verify(folder, new)
    for place in sorted(folder.glob("?*.parts")):
        _convert_parts(place, folder / ".parts" / place.stem)
    for path in (*verdict_files(folder), *(each for pattern in _BESIDE for each in folder.glob(pattern))):
        path.unlink()
    return len(new)


def _verify(folder: Path, old: Sequence[OldEvaluation]) -> None:
    """Compare what is read back with what was there."""
    contents = read_contents(folder)
    for each in old:
        record = None if contents is None else contents.index.find(each.record.hash)
        if contents is None or record is None or not _same(contents, record, each):
            raise AdvdpnpError(
                f"{each.path} is not read back as it was after its conversion; nothing was removed; report this"
            )


def _same(contents: Contents, record: EvaluationRecord, old: OldEvaluation) -> bool:
    """Whether an evaluation and its images are what a file of the old layout says, but for what is not stored."""
    left_out = () if record.kind == ATTACKS else ("margin", "stage", "refused")
    compared = [name for name in FOUND.names if name not in left_out]
    if not contents.verdicts(record).select(compared).equals(old.table.select(compared)):
        return False
    before = pa.Table.from_batches(_batches(read_images(old.path)), IMAGES)
    after = pa.Table.from_batches(_batches(read_new_images(contents.folder, record.hash)), IMAGES)
    return record.info == old.record.info and after.equals(before)


def _batches(tables: Iterator[pa.Table]) -> list[pa.RecordBatch]:
    return [batch for table in tables for batch in table.to_batches()]


def _convert_parts(old: Path, new: Path) -> None:
    """What an unfinished evaluation has found."""
    first = old.parent / f"{old.stem}{_EXAMPLES}"
    for path in sorted(old.glob("*.parquet")):
        table = read_parquet(path)
        info = table_info(table, path)
        texts = table.column("eps_text").unique().to_pylist() if "eps_text" in table.column_names else []
        images = path.with_suffix(SUFFIX)
        sources = _image_sources(path) + ([partial(_examples, first)] if first.exists() else [])
        if sources:
            write_adversarials(new / images.name, chain.from_iterable(source() for source in sources))
        said = {
            "identity": info.pop("identity"),
            "runs": info.pop("runs"),
            "eps_text": next(iter(texts), None) or "",
            "metadata": {name: value for name, value in info.items() if name != "model"},
            "saved": images.exists(),
            "image_shape": tuple(read_arrays(first)["x"].shape[1:]) if first.exists() else (),
        }
        write_table(new / path.name, as_found(table, path), said)
        first = old / "none"  # they go with the first part
    for path in old.glob("record-*.npz"):
        path.replace(new / path.name)
    shutil.rmtree(old)
