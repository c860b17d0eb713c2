"""The layout of before: one Parquet file per evaluation, and its conversion into today's.

    <evaluation>.parquet       its verdicts, with the identity and the runs in the metadata
    <evaluation>.adversarials  images of misclassified samples
    <evaluation>.examples.npz  clean and adversarial images of the first samples
    <evaluation>.parts/        what an unfinished evaluation has found
    sanity-*.json              one measurement each

Every command still reads such folders; ``convert`` makes today's of them, and an evaluation that writes into one does.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import TypeAdapter

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.untrusted.files import LARGEST_JSON, describe_fault, parse_json, read_bounded, validated
from advdpnp.eval.store.adversarial_images import (
    IMAGES,
    SUFFIX,
    Source,
    choose_images,
    read_samples,
    read_tables,
    to_table,
    write_adversarials,
)
from advdpnp.eval.store.commit import commit
from advdpnp.eval.store.data_files import KINDS, Contents, EvaluationData, data_path, read_contents
from advdpnp.eval.store.diagnostics_record import DiagnosticRecord, check_diagnostics
from advdpnp.eval.store.index import EvaluationRecord, Index
from advdpnp.eval.store.key import short_hash
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.schema import FOUND, as_found, changed, read_arrays, read_table, stranger
from advdpnp.eval.store.writer import write_part

_DIAGNOSTICS = TypeAdapter(DiagnosticRecord)
_KEY = pa.schema([
    *((name, pa.string()) for name in ("weights", "data", "threat_norm", "eps_text", "attack", "definition")),
    ("eps", pa.float64()),
])  # fmt: skip
_EXAMPLES = ".examples.npz"
_BESIDE = (f"*{SUFFIX}", f"*{_EXAMPLES}", "sanity-*.json")


def verdict_files(folder: Path) -> list[Path]:
    """The complete verdict files of a model, sorted."""
    todays = {data_path(folder, kind) for kind in KINDS}
    return sorted(path for path in folder.glob("*.parquet") if path not in todays)


def read_old(path: Path, model: ModelRecord) -> EvaluationData:
    """One complete verdict file; its images are read when they are asked for, and ``images`` is 1 if there are any.

    Raises:
        AdvdpnpError: it is about another model, or its rows and its metadata differ.
    """
    table, info = read_table(path, pa.schema([*_KEY, *FOUND]))
    if "eps_text" not in table.column_names:
        raise stranger(path)
    key = {name: table.column(name).unique().to_pylist() for name in _KEY.names}
    if set(key["weights"]) - {model.weights_hash}:
        raise AdvdpnpError(
            f"{path} holds verdicts of another model than the model.json next to it; move it back or delete it"
        )
    if any(len(values) > 1 for values in key.values()):
        raise changed(path, "its rows are of several searches")
    verdicts = as_found(table, path)
    threat = info["identity"].get("threat")
    if len(table) and (key["data"], key["eps"]) != ([info["identity"].get("data")], [threat and threat["eps"]]):
        raise changed(path, "its rows and its definition differ")
    has_images = bool(_image_sources(path))
    record = EvaluationRecord(
        hash=next(iter(key["definition"]), ""), rows=len(table), images=int(has_images), **_said(info, table, path)
    )
    return EvaluationData(record, verdicts, partial(_read_images, path, verdicts) if has_images else None)


def _said(info: dict[str, Any], table: pa.Table, path: Path, examples: Path | None = None) -> dict[str, Any]:
    """What the metadata of a verdict file and the files next to it give of an ``EvaluationRecord``."""
    examples = examples or path.with_suffix(_EXAMPLES)
    texts = table.column("eps_text").unique().to_pylist() if "eps_text" in table.column_names else []
    return {
        "identity": info["identity"],
        "eps_text": next(iter(texts), None) or "",
        "runs": info["runs"],
        "metadata": {name: value for name, value in info.items() if name not in ("identity", "runs", "model")},
        "image_shape": tuple(read_arrays(examples)["x"].shape[1:]) if examples.exists() else (),
        "saved": images_path(path).exists(),
    }


def images_path(path: Path) -> Path:
    """Where the images of a verdict file are."""
    return path.with_suffix(SUFFIX)


def _read_images(path: Path, verdicts: pa.Table) -> Iterator[pa.Table]:
    """The images of a verdict file, with the columns of ``IMAGES``: each sample's once, clean ones of the first."""
    samples = np.unique(verdicts.column("sample").to_numpy())
    return choose_images(_image_sources(path), samples, read_samples(images_path(path)))


def _image_sources(path: Path, examples: Path | None = None) -> list[Source]:
    readers = {images_path(path): read_tables, examples or path.with_suffix(_EXAMPLES): _examples}
    return [partial(read, file) for file, read in readers.items() if file.exists()]


def _examples(path: Path) -> Iterator[pa.Table]:
    stored = read_arrays(path)
    x_adv, x = (torch.from_numpy(np.asarray(stored[name], np.float32)) for name in ("x_adv", "x"))
    if len(x):
        yield to_table(np.asarray(stored["sample"], np.int64), [None] * len(x), x_adv, x)


def read_diagnostics(folder: Path) -> tuple[DiagnosticRecord, ...]:
    """The measurements in ``sanity-*.json``."""
    found = []
    for path in sorted(folder.glob("sanity-*.json")):
        try:
            record = validated(_DIAGNOSTICS, parse_json(read_bounded(path, LARGEST_JSON)))
            check_diagnostics(record)
        except (OSError, ValueError) as error:
            raise AdvdpnpError(
                f"{path} is damaged ({describe_fault(error)}); delete it and run the same evaluation again"
            ) from error
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
        AdvdpnpError: a file is not read back as it was.
    """
    old = [each for path in verdict_files(folder) if len((each := read_old(path, model)).verdicts)]
    before = read_contents(folder) or Contents(folder, Index(model.weights_hash), {})
    known = {record.hash: record.rows for record in before.index.evaluations}
    new = [each for each in old if known.get(each.record.hash, 0) < each.record.rows]
    keys = {each.key for each in before.index.diagnostics}
    measured = tuple(each for each in read_diagnostics(folder) if each.key not in keys)
    if new or measured:
        index = replace(before.index, diagnostics=(*before.index.diagnostics, *measured))
        commit(replace(before, index=index), new)
        _verify(folder, new)
    for place in sorted(folder.glob("?*.parts")):
        _convert_parts(place, folder / ".parts" / place.stem)
    for path in (*verdict_files(folder), *(each for pattern in _BESIDE for each in folder.glob(pattern))):
        path.unlink()
    return len(new)


def _verify(folder: Path, old: Sequence[EvaluationData]) -> None:
    """Compare what is read back with what was there."""
    contents = read_contents(folder)
    for each in old:
        record = contents and contents.index.find(each.record.hash)
        if not contents or not record or not _same(contents.evaluation(record), each):
            raise AdvdpnpError(
                f"{each.record.stem} in {folder} is not read back as it was after its conversion; "
                "nothing was removed; report this"
            )


def _same(new: EvaluationData, old: EvaluationData) -> bool:
    """Whether verdicts, images and metadata are equal, but for the columns of corruptions that are not stored."""
    left_out = () if new.record.kind == "attacks" else ("margin", "stage", "refused")
    compared = [name for name in FOUND.names if name not in left_out]
    images = [pa.concat_tables([IMAGES.empty_table(), *(e.images() if e.images else ())]) for e in (new, old)]
    return (
        new.record.info == old.record.info
        and new.verdicts.select(compared).equals(old.verdicts.select(compared))
        and images[0].equals(images[1])
    )


def _convert_parts(old: Path, new: Path) -> None:
    """What an unfinished evaluation has found."""
    first = old.parent / f"{old.stem}{_EXAMPLES}"
    for path in sorted(old.glob("*.parquet")):
        table, info = read_table(path, pa.schema([("eps_text", pa.string()), *FOUND]))
        said = _said(info, table, path, first)
        if sources := _image_sources(path, first):
            write_adversarials(new / f"{path.stem}{SUFFIX}", chain.from_iterable(source() for source in sources))
        record = EvaluationRecord(hash=short_hash(said["identity"]), rows=len(table), **said)
        write_part(new / path.name, as_found(table, path), record)
        first = old / "none"  # they go with the first part
    for path in old.glob("record-*.npz"):
        path.replace(new / path.name)
    shutil.rmtree(old)
