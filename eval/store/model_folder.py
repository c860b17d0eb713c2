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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import folder_lock, write_text
from advdpnp.eval.store.adversarial_images import choose_images
from advdpnp.eval.store.commit import commit, finish_commit
from advdpnp.eval.store.data_files import Contents, EvaluationData, data_path, read_contents
from advdpnp.eval.store.diagnostics_record import DiagnosticRecord
from advdpnp.eval.store.index import EvaluationRecord, Index, read_index, write_diagnostics
from advdpnp.eval.store.key import EvaluationKey, as_ranges, file_name, of_ranges
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.old_layout import convert, is_old
from advdpnp.eval.store.reader import has_diagnostics
from advdpnp.eval.store.schema import FOUND, Verdicts, needs_image, to_verdicts
from advdpnp.eval.store.writer import Pack, VerdictWriter, read_part

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
        write_text(path / "model.json", json.dumps(identity.to_json(), indent=2) + "\n")
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
        return judged_samples([*self._complete(unit), *self._parts(unit)], images=images)

    def is_complete(self, unit: EvaluationKey, samples: np.ndarray, *, images: bool = False) -> bool:
        """Whether all ``samples`` are complete, with ``images`` those that they need too."""
        complete = self._complete(unit)
        return bool(complete) and bool(np.isin(samples, judged_samples(complete, images=images)).all())

    def read(self, unit: EvaluationKey) -> Verdicts:
        """The verdicts of a complete evaluation."""
        contents = self.contents()
        record = contents.index.find(unit.hash)
        if record is None:
            raise AdvdpnpError(f"{unit.label} is not complete in {self.path}; run its evaluation first")
        return to_verdicts(data_path(self.path, record.kind), contents.verdicts(record), record.info)

    def clear(self, unit: EvaluationKey) -> None:
        """Delete the parts of an evaluation, which is complete."""
        shutil.rmtree(self.parts_folder(unit), ignore_errors=True)
        with suppress(OSError):
            (self.path / PARTS).rmdir()  # unless another evaluation has parts

    def forget_records(self, unit: EvaluationKey) -> None:
        """Delete the records of a search that cannot be continued step by step; its verdicts stay."""
        for path in self.parts_folder(unit).glob("record-*.npz"):
            path.unlink()

    def searches(self, data: str) -> list[EvaluationRecord]:
        """What is complete of attacks on the images with this hash."""
        index = read_index(self.path)
        return [
            each for each in (index.evaluations if index else ()) if each.searched and each.identity["data"] == data
        ]

    def forget_searches(self, data: str) -> None:
        """Delete all that attacks have found on the images with this hash, in parts too, and how gradients were."""
        for part in (self.path / PARTS).glob("*@*"):  # of attacks
            shutil.rmtree(part, ignore_errors=True)
        before, gone = self.contents(), {each.hash for each in self.searches(data)}
        kept = [before.evaluation(each) for each in before.index.evaluations if each.hash not in gone]
        measured = tuple(each for each in before.index.diagnostics if not (each.norm and each.data == data))
        commit(replace(before, index=Index(before.index.weights, diagnostics=measured)), kept)
        finish_commit(self.path)

    @contextmanager
    def writer(
        self,
        unit: EvaluationKey,
        samples: np.ndarray,
        facts: Mapping[str, Any],
        *,
        pack: Pack | None = None,
    ) -> Iterator[VerdictWriter]:
        """Add verdicts to an evaluation. However the block is left, what was added is on disk; left without an error,
        the evaluation is complete.

        Args:
            unit: what is searched.
            samples: int64 indices that must all be judged when the block is left without an error.
            facts: what belongs to this run: versions, device, command, date; all else belongs to the evaluation.
            pack: makes the images compact that ``VerdictWriter.keep`` is given; None: none will be.

        Raises:
            AdvdpnpError: some of ``samples`` were not judged.
        """
        writer = VerdictWriter(self.parts_folder(unit), unit, facts, pack)
        try:
            yield writer
        finally:
            writer.flush()
        writer.differing = self._compact(unit, samples, saved=pack is not None)

    def has_diagnostics(self, about: DiagnosticRecord) -> bool:
        """Whether this measurement is stored, by this version."""
        return has_diagnostics(self.path, about)

    def write_diagnostics(self, measured: DiagnosticRecord) -> None:
        """Store a measurement, in the place of an older one of the same."""
        write_diagnostics(self.path, measured)

    def _complete(self, unit: EvaluationKey) -> list[EvaluationData]:
        """The evaluation as the data files have it, if it is complete for some samples."""
        contents = self.contents()
        record = contents.index.find(unit.hash)
        return [] if record is None else [contents.evaluation(record)]

    def _parts(self, unit: EvaluationKey) -> list[EvaluationData]:
        """Its parts, the oldest first."""
        return [read_part(path) for path in sorted(self.parts_folder(unit).glob("*.parquet"))]

    def _compact(self, unit: EvaluationKey, samples: np.ndarray, *, saved: bool) -> np.ndarray:
        """Make an evaluation complete; returns the samples (int64) that a repeated search judged otherwise.

        A sample comes again where a writer was killed after compaction, whose parts are complete already, and where a
        search was repeated for its images.
        """
        parts = self._parts(unit)
        pieces = [*self._complete(unit), *parts]
        whole = join_pieces(unit, pieces, samples, saved=saved)
        if whole is not None and parts:
            commit(self.contents(), [whole])
        self.clear(unit)
        return _judged_otherwise(pieces)


def judged_samples(pieces: Sequence[EvaluationData], *, images: bool) -> np.ndarray:
    """Sorted samples (int64) that have a verdict; with ``images``, also the image that it needs."""
    none = np.zeros(0, np.int64)
    sample = np.concatenate([none, *(each.verdicts.column("sample").to_numpy() for each in pieces)])
    if images:
        bare = np.concatenate([np.zeros(0, bool), *(needs_image(each.verdicts) for each in pieces)])
        pictured = np.concatenate([none, *(each.pictured() for each in pieces if each.pictured)])
        sample = sample[~bare | np.isin(sample, pictured)]
    return np.unique(sample)


def join_pieces(
    unit: EvaluationKey, pieces: Sequence[EvaluationData], samples: np.ndarray, *, saved: bool
) -> EvaluationData | None:
    """The evaluation that the pieces, the oldest first, make up; of each sample the first verdict counts.

    Args:
        unit: its key.
        pieces: what was found for it; without verdicts, there is no evaluation.
        samples: int64 indices that must all be judged.
        saved: whether the images of all misclassified samples were to be saved.

    Raises:
        AdvdpnpError: some of ``samples`` were not judged.
    """
    everything = _all_verdicts(pieces)
    judged, first = np.unique(everything.column("sample").to_numpy(), return_index=True)
    require_verdicts(unit, samples, judged)
    if not len(judged):
        return None
    table = everything.take(pa.array(first))
    record = replace(_joined(pieces), hash=unit.hash, identity=unit.identity, rows=len(table))
    record = replace(record, saved=saved or record.saved)
    needed = judged[needs_image(table)] if record.saved else np.zeros(0, np.int64)
    sources = [each.images for each in pieces if each.images is not None]
    return EvaluationData(record, table, partial(choose_images, sources, judged, needed) if sources else None)


def require_verdicts(unit: EvaluationKey, samples: np.ndarray, judged: np.ndarray) -> None:
    """Check that every one of ``samples`` (int64) is among those that were ``judged`` (int64).

    Raises:
        AdvdpnpError: some are not.
    """
    missing = np.setdiff1d(samples, judged)
    if len(missing):
        raise AdvdpnpError(
            f"the attack {unit.label} gave no verdict for {len(missing)} of {len(samples)} samples "
            f"(first: {missing[0]}); this is a fault of the attack, report it to its author"
        )


def _joined(pieces: Sequence[EvaluationData]) -> EvaluationRecord:
    """One record for all pieces, the oldest first; a piece that only repeats samples adds no run."""
    record, runs = pieces[0].record, list[dict[str, Any]]()
    known = np.zeros(0, np.int64)
    for each in pieces:
        new = np.setdiff1d(each.verdicts.column("sample").to_numpy(), known)
        if len(new):
            alone = {"judged": as_ranges(new.tolist())} if len(each.record.runs) == 1 else {}
            runs += [{**alone, **run} for run in each.record.runs]
            record = replace(record, metadata=each.record.metadata)
            known = np.union1d(known, new)
        shape = each.record.image_shape or record.image_shape
        record = replace(record, image_shape=shape, saved=record.saved or each.record.saved)
    return replace(record, runs=_merge_runs(runs))


def _all_verdicts(pieces: Sequence[EvaluationData]) -> pa.Table:
    return pa.concat_tables([FOUND.empty_table(), *(each.verdicts for each in pieces)])


def _judged_otherwise(pieces: Sequence[EvaluationData]) -> np.ndarray:
    """Samples (int64) with a verdict that differs from their first one."""
    everything = _all_verdicts(pieces)
    sample = everything.column("sample").to_numpy()
    _, first, place = np.unique(sample, return_index=True, return_inverse=True)
    differs = np.zeros(len(sample), dtype=bool)
    for name in _WHAT_COUNTS:
        values = everything.column(name).to_numpy()
        differs |= values != values[first[place]]
    return np.unique(sample[differs])


_ADDED_UP = ("seconds", "samples", "judged", "parted")


def _merge_runs(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The parts of one run become one entry: equal but for what adds up. Devices that are all equal judged all."""
    merged: dict[str, dict[str, Any]] = {}
    for run in runs:
        key = json.dumps({k: v for k, v in run.items() if k not in _ADDED_UP}, sort_keys=True)
        if key in merged:
            merged[key]["seconds"] = round(merged[key]["seconds"] + run["seconds"], 3)
            merged[key]["samples"] += run["samples"]
            parted = merged[key].get("parted", 0) + run.get("parted", 0)
            merged[key] |= {"parted": parted} if parted else {}
            merged[key]["judged"] = f"{merged[key].get('judged', '')},{run.get('judged', '')}"
        else:
            merged[key] = dict(run)
    several = len({run.get("device") for run in runs}) > 1
    for run in merged.values():
        judged = as_ranges(sorted(of_ranges(run.pop("judged", ""))))
        if several and judged:
            run["judged"] = judged
    return list(merged.values())
