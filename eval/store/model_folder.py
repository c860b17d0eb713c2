"""The verdict store: one Parquet file per model and unit, one row per sample, written as found and never twice.

    DIR/<model>-<hash8>/model.json               what the model is
    DIR/<model>-<hash8>/<unit>.parts/*.parquet   verdicts found so far, while the unit is running
    DIR/<model>-<hash8>/<unit>.parquet           all of them, sorted by sample: the unit is complete
    DIR/<model>-<hash8>/<unit>.examples.npz      clean and adversarial images of the first samples
    DIR/<model>-<hash8>/<unit>.adversarials      the images of all samples that were broken, if they were asked for

Every file appears whole or not at all. One process writes to a model's folder at a time; readers need no lock.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import folder_lock, write_text
from advdpnp.eval.store.adversarial_images import SUFFIX, read_samples, read_tables, write_adversarials
from advdpnp.eval.store.key import EvaluationKey, file_name
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.schema import (
    SCHEMA,
    Verdicts,
    needs_image,
    read_table,
    read_verdicts,
    table_info,
    write_table,
)
from advdpnp.eval.store.writer import Pack, VerdictWriter

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
        yield ModelFolder(path, identity)


@dataclass(frozen=True)
class ModelFolder:
    """One model's verdicts, while its lock is held. Made by ``open_model``."""

    path: Path
    identity: ModelRecord

    def complete_path(self, unit: EvaluationKey) -> Path:
        """The unit's verdict file; found by hash, for the same eps may have been written otherwise ("0.1", "1/10")."""
        # .parquet or .parts; readers without the lock must not take a file for it that is still being written.
        known = next(self.path.glob(f"[!.]*-{unit.hash}.pa*"), None)
        return self.path / f"{unit.stem if known is None else known.stem}.parquet"

    def parts_folder(self, unit: EvaluationKey) -> Path:
        """Where the verdicts are while the unit is running."""
        return self.complete_path(unit).with_suffix(".parts")

    def stored(self, unit: EvaluationKey, *, images: bool = False) -> np.ndarray:
        """Sorted indices (int64) of the samples that have a verdict, complete or not; with ``images`` of those alone
        whose verdict needs no image or has one.
        """
        table = self._everything(unit)[0]
        sample = table.column("sample").to_numpy()
        if images:
            sample = sample[~needs_image(table) | np.isin(sample, self._pictured(unit))]
        return np.unique(sample)

    def is_complete(self, unit: EvaluationKey, samples: np.ndarray, *, images: bool = False) -> bool:
        """Whether all ``samples`` are in the unit's complete file, with ``images`` those that they need too."""
        path = self.complete_path(unit)
        if not path.exists():
            return False
        table = read_table(path)
        sample = table.column("sample").to_numpy()
        if images:
            sample = sample[~needs_image(table) | np.isin(sample, read_samples(path.with_suffix(SUFFIX)))]
        return bool(np.isin(samples, sample).all())

    def read(self, unit: EvaluationKey) -> Verdicts:
        """The complete file of a unit."""
        return read_verdicts(self.complete_path(unit))

    def below(self, folder: Path) -> "ModelFolder":
        """The same model's folder below another one than the results'."""
        return ModelFolder(folder / self.path.name, self.identity)

    def discard(self, unit: EvaluationKey) -> None:
        """Forget what an interrupted search of the unit has left."""
        shutil.rmtree(self.parts_folder(unit), ignore_errors=True)

    def forget_records(self, unit: EvaluationKey) -> None:
        """Have an interrupted search that can't be asked begin again; verdicts stay."""
        for path in self.parts_folder(unit).glob("record-*.npz"):
            path.unlink()

    def clear(self, unit: EvaluationKey) -> None:
        """Forget all of a unit that is not complete here, the images too: another folder has it."""
        self.discard(unit)
        self.parts_folder(unit).with_suffix(".examples.npz").unlink(missing_ok=True)

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
        """Add verdicts to a unit. However the block is left, what was added is on disk; left without an error, the
        unit is complete, unless ``complete`` says that another process will see to that.

        Args:
            unit: what is searched.
            samples: int64 indices that must all be judged when the block is left without an error.
            facts: what belongs to this run: versions, device, command, date; dataset, seed, randomised.
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
            writer.differing = self._compact(unit, samples)

    def _everything(self, unit: EvaluationKey) -> tuple[pa.Table, list[dict[str, Any]], dict[str, Any]]:
        """All rows stored for a unit, the oldest first; the runs that made them; the latest metadata.

        A sample comes again where a writer was killed after compaction, whose parts are in the complete file already,
        and where a search was repeated for its images. The first verdict counts, and only the runs that gave one.
        """
        complete, parts = self.complete_path(unit), self.parts_folder(unit)
        paths = [complete] if complete.exists() else []
        paths += sorted(parts.glob("*.parquet")) if parts.exists() else []
        tables, runs, known = [], [], np.zeros(0, np.int64)
        info: dict[str, Any] = {}
        for path in paths:
            table = read_table(path)
            sample = table.column("sample").to_numpy()
            if not info or not np.isin(sample, known).all():
                info = table_info(table, path)
                runs += info["runs"]
            known = np.union1d(known, sample)
            tables.append(table.replace_schema_metadata(None))
        if not tables:
            return SCHEMA.empty_table(), [], {}
        return pa.concat_tables(tables).unify_dictionaries(), runs, info

    def _pictured(self, unit: EvaluationKey) -> np.ndarray:
        """Samples (int64) that have an image, in the complete file or in a part."""
        return np.concatenate([np.zeros(0, np.int64), *map(read_samples, self._image_files(unit))])

    def _image_files(self, unit: EvaluationKey) -> list[Path]:
        complete = self.complete_path(unit).with_suffix(SUFFIX)
        parts = sorted(self.parts_folder(unit).glob(f"*{SUFFIX}"))
        return [complete, *parts] if complete.exists() else parts

    def _compact(self, unit: EvaluationKey, samples: np.ndarray) -> np.ndarray:
        """Make one file of all parts; returns the samples (int64) that a repeated search judged otherwise."""
        everything, runs, info = self._everything(unit)
        sample = everything.column("sample").to_numpy()
        _, first = np.unique(sample, return_index=True)
        table = everything.take(pa.array(first))
        missing = np.setdiff1d(samples, sample)
        if len(missing):
            raise AdvdpnpError(
                f"the attack {unit.label} gave no verdict for {len(missing)} of {len(samples)} samples "
                f"(first: {missing[0]}); this is a fault of the attack, report it to its author"
            )
        self._compact_images(unit, table)  # first: a verdict that is complete has its image
        path = self.complete_path(unit)
        if not path.exists() or len(read_table(path)) < len(table):
            write_table(path, table, {**info, "runs": _merge_runs(runs)})
        self.discard(unit)
        return _judged_otherwise(everything, first)

    def _compact_images(self, unit: EvaluationKey, verdicts: pa.Table) -> None:
        """One file of all images of broken samples, each once."""
        files, path = self._image_files(unit), self.complete_path(unit).with_suffix(SUFFIX)
        if not files or files == [path]:
            return
        wanted = verdicts.column("sample").to_numpy()[needs_image(verdicts)]

        def pieces() -> Iterator[pa.Table]:
            seen = np.zeros(0, np.int64)
            for table in (piece for file in files for piece in read_tables(file)):
                sample = table.column("sample").to_numpy()
                yield table.filter(pa.array(np.isin(sample, np.setdiff1d(wanted, seen))))
                seen = np.union1d(seen, sample)

        write_adversarials(path, pieces())


def _judged_otherwise(everything: pa.Table, first: np.ndarray) -> np.ndarray:
    """Samples with a verdict that differs from their first one, whose places are given."""
    sample = everything.column("sample").to_numpy()
    known = first[np.searchsorted(sample[first], sample)]
    differs = np.zeros(len(sample), dtype=bool)
    for name in _WHAT_COUNTS:
        values = everything.column(name).to_numpy()
        differs |= values != values[known]
    return np.unique(sample[differs])


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
