"""The verdict store: one folder per model, verdicts written as they are found and never twice.

    DIR/<model>-<hash8>/model.json              what the model is
    DIR/<model>-<hash8>/units.json              every complete evaluation; written last, in one step
    DIR/<model>-<hash8>/attacks.parquet         verdicts on clean images and under attacks
    DIR/<model>-<hash8>/corruptions.parquet     verdicts on corrupted images
    DIR/<model>-<hash8>/adversarials.parquet    adversarial images
    DIR/<model>-<hash8>/.parts/<evaluation>/    what has been found so far, while an evaluation is running

Every file appears whole or not at all. An evaluation is complete when ``units.json`` names it. One process writes to a
model's folder at a time; readers need no lock.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import folder_lock, write_text
from advdpnp.eval.store.adversarial_images import SUFFIX, Source, choose_images, read_samples, read_tables
from advdpnp.eval.store.commit import Complete, commit, finish_commit
from advdpnp.eval.store.data_files import Contents, data_path, read_contents, read_images
from advdpnp.eval.store.diagnostics_record import DiagnosticRecord
from advdpnp.eval.store.index import EvaluationRecord, Index, read_index, write_diagnostics
from advdpnp.eval.store.key import EvaluationKey, file_name
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.old_layout import convert, is_old
from advdpnp.eval.store.reader import has_diagnostics
from advdpnp.eval.store.schema import FOUND, Verdicts, needs_image, read_table, table_info, to_verdicts
from advdpnp.eval.store.writer import Pack, VerdictWriter

PARTS = ".parts"

_WHAT_COUNTS = ("clean_prediction", "adversarial_prediction", "success")


@contextmanager
def open_model(out: Path, identity: ModelRecord) -> Iterator["ModelFolder"]:
    """The folder of one model below ``out``, locked against other writers until the block is left.

    Raises:
        AdvdpnpError: another process writes to it, or it cannot be written.
    """
    path = out / f"{file_name(identity.name)}-{identity.weights_hash[:8]}"
    with folder_lock(path):
        write_text(path / "model.json", json.dumps(identity.__dict__, indent=2) + "\n")
        finish_commit(path)
        if is_old(path):
            convert(path, identity)
        yield ModelFolder(path, identity)


@dataclass(frozen=True)
class ModelFolder:
    """One model's verdicts, while its lock is held. Made by ``open_model``."""

    path: Path
    identity: ModelRecord

    def contents(self) -> Contents:
        """What is complete."""
        return read_contents(self.path) or Contents(self.path, Index(self.identity.weights_hash), {})

    def has(self, unit: EvaluationKey) -> bool:
        """Whether the evaluation is complete for some samples."""
        index = read_index(self.path)
        return index is not None and index.find(unit.hash) is not None

    def parts_folder(self, unit: EvaluationKey) -> Path:
        """Where the verdicts are while the evaluation is running; found by hash, for eps may have two spellings."""
        known = next((self.path / PARTS).glob(f"*-{unit.hash}"), None)
        return known or self.path / PARTS / unit.stem

    def stored(self, unit: EvaluationKey, *, images: bool = False) -> np.ndarray:
        """Sorted indices (int64) of the samples that have a verdict, complete or not; with ``images`` of those alone
        whose verdict needs no image or has one that was saved for it.
        """
        found = self._everything(unit)
        table = found.table()
        sample = table.column("sample").to_numpy()
        if images:
            sample = sample[~needs_image(table) | np.isin(sample, found.pictured())]
        return np.unique(sample)

    def is_complete(self, unit: EvaluationKey, samples: np.ndarray, *, images: bool = False) -> bool:
        """Whether all ``samples`` are complete, with ``images`` those that they need too."""
        contents = self.contents()
        record = contents.index.find(unit.hash)
        if record is None:
            return False
        table = contents.verdicts(record)
        sample = table.column("sample").to_numpy()
        if images:
            none = np.zeros(0, np.int64)
            pictured = _samples_of(partial(read_images, self.path, record.hash)) if record.saved else none
            sample = sample[~needs_image(table) | np.isin(sample, pictured)]
        return bool(np.isin(samples, sample).all())

    def read(self, unit: EvaluationKey) -> Verdicts:
        """The verdicts of a complete evaluation."""
        contents = self.contents()
        record = contents.index.find(unit.hash)
        if record is None:
            raise AdvdpnpError(f"{unit.label} is not complete in {self.path}; run its evaluation first")
        return to_verdicts(data_path(self.path, record.kind), contents.verdicts(record), record.info)

    def below(self, folder: Path) -> "ModelFolder":
        """The same model's folder below another one than the results'."""
        return ModelFolder(folder / self.path.name, self.identity)

    def discard(self, unit: EvaluationKey) -> None:
        """Forget what an interrupted search of the evaluation has left."""
        shutil.rmtree(self.parts_folder(unit), ignore_errors=True)
        with suppress(OSError):
            (self.path / PARTS).rmdir()  # unless another evaluation has parts

    def forget_records(self, unit: EvaluationKey) -> None:
        """Have an interrupted search that cannot be continued step by step begin again; verdicts stay."""
        for path in self.parts_folder(unit).glob("record-*.npz"):
            path.unlink()

    def clear(self, unit: EvaluationKey) -> None:
        """Forget all of an evaluation that is not complete here: another folder has it."""
        self.discard(unit)

    @contextmanager
    def writer(
        self,
        unit: EvaluationKey,
        samples: np.ndarray,
        facts: Mapping[str, Any],
        *,
        complete: bool = True,
        pack: Pack | None = None,
    ) -> Iterator["VerdictWriter"]:
        """Add verdicts to an evaluation. However the block is left, what was added is on disk; left without an error,
        the evaluation is complete, unless ``complete`` says that another process will see to that.

        Args:
            unit: what is searched.
            samples: int64 indices that must all be judged when the block is left without an error.
            facts: what belongs to this run: versions, device, command, date; all else belongs to the evaluation.
            pack: makes the images compact that ``VerdictWriter.keep`` is given; None: none will be.

        Raises:
            AdvdpnpError: some of ``samples`` were not judged.
        """
        writer = VerdictWriter(self.parts_folder(unit), self.identity, unit, facts, pack)
        try:
            yield writer
        finally:
            writer.flush()
        if complete:
            writer.differing = self._compact(unit, samples, saved=pack is not None)

    def has_diagnostics(self, about: DiagnosticRecord) -> bool:
        """Whether this measurement is stored, by this version."""
        return has_diagnostics(self.path, about)

    def write_diagnostics(self, measured: DiagnosticRecord) -> None:
        """Store a measurement, in the place of an older one of the same."""
        write_diagnostics(self.path, measured)

    def _everything(self, unit: EvaluationKey) -> "FoundParts":
        """All that is stored for an evaluation, complete or in parts, the oldest first.

        A sample comes again where a writer was killed after compaction, whose parts are complete already, and where a
        search was repeated for its images. The first verdict counts, and only the runs that gave one.
        """
        contents = self.contents()
        record = contents.index.find(unit.hash)
        found = FoundParts()
        if record is not None:
            said = {**record.info, "saved": record.saved, "image_shape": record.image_shape}
            said |= {"metadata": record.metadata, "eps_text": record.eps_text}
            source: Source = partial(read_images, self.path, record.hash)
            images = source if record.images else None
            found.take(contents.verdicts(record), said, images, partial(_samples_of, source), new=False)
        for path in sorted(self.parts_folder(unit).glob("*.parquet")):
            table, images_path = read_table(path), path.with_suffix(SUFFIX)
            images = partial(read_tables, images_path) if images_path.exists() else None
            info = table_info(table, path)
            found.take(table.replace_schema_metadata(None), info, images, partial(read_samples, images_path))
        return found

    def _compact(self, unit: EvaluationKey, samples: np.ndarray, *, saved: bool) -> np.ndarray:
        """Make an evaluation complete; returns the samples (int64) that a repeated search judged otherwise."""
        found = self._everything(unit)
        complete = found.complete(unit, samples, saved=saved)
        if complete is not None:
            commit(self.contents(), [complete])
        self.discard(unit)
        return found.judged_otherwise()


@dataclass
class FoundParts:
    """What has been found for one evaluation.

    Attributes:
        new: whether any of it is not complete yet.
        tables: verdicts, the oldest first.
        runs: that gave a verdict which counts.
        images: what reads the images of each table.
        saved: what reads the samples (int64) whose image was saved, beyond those for figures.
        said: the latest metadata.
    """

    new: bool = False
    tables: list[pa.Table] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    images: list[Source] = field(default_factory=list)
    saved: list[Callable[[], np.ndarray]] = field(default_factory=list)
    said: dict[str, Any] = field(default_factory=lambda: {"saved": False, "image_shape": ()})
    known: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def take(
        self,
        table: pa.Table,
        info: Mapping[str, Any],
        images: Source | None,
        saved: Callable[[], np.ndarray],
        *,
        new: bool = True,
    ) -> None:
        """Add a part, or what was complete before (not ``new``)."""
        self.new |= new
        sample = table.column("sample").to_numpy()
        before = self.said
        if not self.tables or not np.isin(sample, self.known).all():
            self.runs += info["runs"]
            self.said = before | {"metadata": info["metadata"]}
            self.said.setdefault("eps_text", info["eps_text"])
        self.said["saved"] = before["saved"] or info["saved"]
        self.said["image_shape"] = info["image_shape"] or before["image_shape"]
        self.known = np.union1d(self.known, sample)
        self.tables.append(table)
        self.images += [] if images is None else [images]
        self.saved += [saved] if info["saved"] else []

    def table(self) -> pa.Table:
        """All verdicts."""
        return pa.concat_tables(self.tables) if self.tables else FOUND.empty_table()

    def pictured(self) -> np.ndarray:
        """Samples (int64) whose image was saved."""
        return np.concatenate([np.zeros(0, np.int64), *(read() for read in self.saved)])

    def complete(self, unit: EvaluationKey, samples: np.ndarray, *, saved: bool) -> Complete | None:
        """The evaluation that this makes up; None if nothing is new.

        Args:
            unit: its key.
            samples: int64 indices that must all be judged.
            saved: whether the images of all misclassified samples were to be saved.

        Raises:
            AdvdpnpError: some of ``samples`` were not judged.
        """
        everything = self.table()
        sample = everything.column("sample").to_numpy()
        missing = np.setdiff1d(samples, sample)
        if len(missing):
            raise AdvdpnpError(
                f"the attack {unit.label} gave no verdict for {len(missing)} of {len(samples)} samples "
                f"(first: {missing[0]}); this is a fault of the attack, report it to its author"
            )
        table = everything.take(pa.array(np.unique(sample, return_index=True)[1]))
        if not len(table) or not self.new:
            return None
        saved = saved or self.said["saved"]
        record = EvaluationRecord(
            hash=unit.hash,
            identity=unit.identity,
            eps_text=self.said["eps_text"],
            rows=len(table),
            runs=_merge_runs(self.runs),
            metadata=self.said["metadata"],
            image_shape=tuple(self.said["image_shape"]),
            saved=saved,
        )
        needed = table.column("sample").to_numpy()[needs_image(table)] if saved else np.zeros(0, np.int64)
        images = choose_images(self.images, np.unique(sample), needed) if self.images else None
        return Complete(record, table, images)

    def judged_otherwise(self) -> np.ndarray:
        """Samples (int64) with a verdict that differs from their first one."""
        everything = self.table()
        sample = everything.column("sample").to_numpy()
        _, first, place = np.unique(sample, return_index=True, return_inverse=True)
        differs = np.zeros(len(sample), dtype=bool)
        for name in _WHAT_COUNTS:
            values = everything.column(name).to_numpy()
            differs |= values != values[first[place]]
        return np.unique(sample[differs])


def _samples_of(images: Source) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *(table.column("sample").to_numpy() for table in images())])


def _merge_runs(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The parts of one run become one entry: equal but for the two numbers, which add up."""
    merged: dict[str, dict[str, Any]] = {}
    for run in runs:
        key = json.dumps({k: v for k, v in run.items() if k not in ("seconds", "samples")}, sort_keys=True)
        if key in merged:
            merged[key]["seconds"] = round(merged[key]["seconds"] + run["seconds"], 3)
            merged[key]["samples"] += run["samples"]
        else:
            merged[key] = dict(run)
    return list(merged.values())
