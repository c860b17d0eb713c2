"""The verdict store: one Parquet file per model and unit, one row per sample, written as found and never twice.

    DIR/<model>-<hash8>/model.json               what the model is
    DIR/<model>-<hash8>/<unit>.parts/*.parquet   verdicts found so far, while the unit is running
    DIR/<model>-<hash8>/<unit>.parquet           all of them, sorted by sample: the unit is complete
    DIR/<model>-<hash8>/<unit>.examples.npz      clean and adversarial images of the first samples
    DIR/<model>-<hash8>/<unit>.adversarials      the images of all samples that were broken, if they were asked for

Every file appears whole or not at all. One process writes to a model's folder at a time; readers need no lock.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from advdpnp.errors import AdvdpnpError
from advdpnp.eval.adversarials import SUFFIX, read_samples, read_tables, write_adversarials
from advdpnp.eval.unit import Unit, file_name
from advdpnp.files import atomic_path, folder_lock, write_text

METADATA_KEY = b"advdpnp"
EXAMPLES = 8
FLUSH_SECONDS = 2.0

# What the search finds for each sample...
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
_LATER = ("stage", "refused")  # columns that older files lack; -1 stands for what they do not tell
_WHAT_COUNTS = ("clean_prediction", "adversarial_prediction", "success")
# ... and the key it belongs to, which makes every row readable by itself, wherever it is copied.
_WORD = pa.dictionary(pa.int32(), pa.string())
KEY = pa.schema(
    [
        ("weights", _WORD),
        ("data", _WORD),
        ("threat_norm", _WORD),
        ("eps", pa.float64()),
        ("eps_text", _WORD),
        ("attack", _WORD),
        ("definition", _WORD),
    ]
)
SCHEMA = pa.schema([*KEY, *FOUND])

Columns = Mapping[str, np.ndarray]

Pack = Callable[[np.ndarray, np.ndarray, np.ndarray], pa.Table]
"""Sample indices (n,), labels (n,) and adversarial images (n, c, h, w) to rows of ``adversarials``."""


@dataclass(frozen=True)
class ModelIdentity:
    """What ``model.json`` holds.

    Attributes:
        name: as tables show it.
        weights_hash: SHA-256 hex of names, shapes and values of the weights.
        architecture: its name, for the table.
        method: how it was trained; "" if unknown.
        parameters: their number.
        class_names: names of the classes, in the order of the logits; may be empty.
        dataset: name of the data set it was last evaluated on.
        min_separation: smallest angle between two classes, in degrees; None if the checkpoint does not tell.
        training_seconds: what training took until the epoch that was kept; None if the checkpoint does not tell.
        recipe_hash: of all that the checkpoint says of its training but the seed; "" if it does not tell.
        training_seed: the seed it was trained with; None if the checkpoint does not tell.
    """

    name: str
    weights_hash: str
    architecture: str = ""
    method: str = ""
    parameters: int = 0
    class_names: tuple[str, ...] = ()
    dataset: str = ""
    min_separation: float | None = None
    training_seconds: float | None = None
    recipe_hash: str = ""
    training_seed: int | None = None


@dataclass(frozen=True)
class Verdicts:
    """One verdict file.

    Attributes:
        path: where it is.
        frame: the columns of ``SCHEMA``, sorted by sample.
        info: the JSON metadata: identity, definition, dataset, seed, randomised, runs.
    """

    path: Path
    frame: pd.DataFrame
    info: dict[str, Any]


@contextmanager
def open_model(out: Path, identity: ModelIdentity) -> Iterator["ModelFolder"]:
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
    identity: ModelIdentity

    def complete_path(self, unit: Unit) -> Path:
        """The unit's verdict file; found by hash, for the same eps may have been written otherwise ("0.1", "1/10")."""
        # .parquet or .parts; readers without the lock must not take a file for it that is still being written.
        known = next(self.path.glob(f"[!.]*-{unit.hash}.pa*"), None)
        return self.path / f"{unit.stem if known is None else known.stem}.parquet"

    def parts_folder(self, unit: Unit) -> Path:
        """Where the verdicts are while the unit is running."""
        return self.complete_path(unit).with_suffix(".parts")

    def stored(self, unit: Unit, *, images: bool = False) -> np.ndarray:
        """Sorted indices (int64) of the samples that have a verdict, complete or not; with ``images`` of those alone
        whose verdict needs no image or has one.
        """
        table = self._everything(unit)[0]
        sample = table.column("sample").to_numpy()
        if images:
            sample = sample[~needs_image(table) | np.isin(sample, self._pictured(unit))]
        return np.unique(sample)

    def is_complete(self, unit: Unit, samples: np.ndarray, *, images: bool = False) -> bool:
        """Whether all ``samples`` are in the unit's complete file, with ``images`` those that they need too."""
        path = self.complete_path(unit)
        if not path.exists():
            return False
        table = _read_table(path)
        sample = table.column("sample").to_numpy()
        if images:
            sample = sample[~needs_image(table) | np.isin(sample, read_samples(path.with_suffix(SUFFIX)))]
        return bool(np.isin(samples, sample).all())

    def read(self, unit: Unit) -> Verdicts:
        """The complete file of a unit."""
        return read_verdicts(self.complete_path(unit))

    def below(self, folder: Path) -> "ModelFolder":
        """The same model's folder below another one than the results'."""
        return ModelFolder(folder / self.path.name, self.identity)

    def discard(self, unit: Unit) -> None:
        """Forget what an interrupted search of the unit has left."""
        shutil.rmtree(self.parts_folder(unit), ignore_errors=True)

    def forget_records(self, unit: Unit) -> None:
        """Have an interrupted search that can't be asked begin again; verdicts stay."""
        for path in self.parts_folder(unit).glob("record-*.npz"):
            path.unlink()

    def clear(self, unit: Unit) -> None:
        """Forget all of a unit that is not complete here, the images too: another folder has it."""
        self.discard(unit)
        self.parts_folder(unit).with_suffix(".examples.npz").unlink(missing_ok=True)

    @contextmanager
    def writer(
        self,
        unit: Unit,
        samples: np.ndarray,
        facts: Mapping[str, Any],
        *,
        complete: bool = True,
        pack: Pack | None = None,
    ) -> Iterator["UnitWriter"]:
        """Add verdicts to a unit. However the block is left, what was added is on disk; left without an error, the
        unit is complete, unless ``complete`` says that another process will see to that.

        Args:
            unit: what is searched.
            samples: int64 indices that must all be judged when the block is left without an error.
            facts: what belongs to this run: versions, device, command, date; dataset, seed, randomised.
            pack: makes the images compact that ``UnitWriter.keep`` is given; None: none will be.

        Raises:
            AdvdpnpError: some of ``samples`` were not judged.
        """
        writer = UnitWriter(self, unit, facts, pack)
        try:
            yield writer
        finally:
            writer.flush()
        if complete:
            writer.differing = self._compact(unit, samples)

    def _everything(self, unit: Unit) -> tuple[pa.Table, list[dict[str, Any]], dict[str, Any]]:
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
            table = _read_table(path)
            sample = table.column("sample").to_numpy()
            if not info or not np.isin(sample, known).all():
                info = _info(table, path)
                runs += info["runs"]
            known = np.union1d(known, sample)
            tables.append(table.replace_schema_metadata(None))
        if not tables:
            return SCHEMA.empty_table(), [], {}
        return pa.concat_tables(tables).unify_dictionaries(), runs, info

    def _pictured(self, unit: Unit) -> np.ndarray:
        """Samples (int64) that have an image, in the complete file or in a part."""
        return np.concatenate([np.zeros(0, np.int64), *map(read_samples, self._image_files(unit))])

    def _image_files(self, unit: Unit) -> list[Path]:
        complete = self.complete_path(unit).with_suffix(SUFFIX)
        parts = sorted(self.parts_folder(unit).glob(f"*{SUFFIX}"))
        return [complete, *parts] if complete.exists() else parts

    def _compact(self, unit: Unit, samples: np.ndarray) -> np.ndarray:
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
        if not path.exists() or len(_read_table(path)) < len(table):
            _write_table(path, table, {**info, "runs": _merge_runs(runs)})
        self.discard(unit)
        return _judged_otherwise(everything, first)

    def _compact_images(self, unit: Unit, verdicts: pa.Table) -> None:
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


class UnitWriter:
    """Collects verdicts and writes them in parts, at most every ``FLUSH_SECONDS``.

    Attributes:
        differing: once the unit is complete: samples (int64) that were searched again and judged otherwise.
    """

    def __init__(self, folder: ModelFolder, unit: Unit, facts: Mapping[str, Any], pack: Pack | None = None) -> None:
        self._folder, self._unit, self._pack = folder, unit, pack
        self.differing = np.zeros(0, np.int64)
        self._facts = dict(facts)
        self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._pending: list[pa.Table] = []
        self._gathered: set[Path] = set()
        self._parts = folder.parts_folder(unit)
        self._next_part = 1 + max((int(p.stem) for p in self._parts.glob("*.parquet") if p.stem.isdigit()), default=-1)
        self._examples = _Examples(self._parts.with_suffix(".examples.npz"))
        self._clock = self._last_flush = time.monotonic()

    def wants_images(self, samples: np.ndarray) -> np.ndarray:
        """Places in ``samples`` (int64 (n,)) whose images are to be kept as examples."""
        return self._examples.places(samples)

    def keep(self, columns: Columns, x_adv: np.ndarray) -> None:
        """Have the images of broken samples stored with the verdicts that ``add`` is given next.

        Args:
            columns: the columns of ``FOUND``, each of shape (n,).
            x_adv: what the attack made of each sample, float32 (n, c, h, w).
        """
        broken = _needs_image(columns)
        if broken.any():
            self._kept.append(
                (np.asarray(columns["sample"])[broken], np.asarray(columns["label"])[broken], x_adv[broken])
            )

    def add(
        self,
        columns: Columns,
        places: np.ndarray | None = None,
        x: np.ndarray | None = None,
        x_adv: np.ndarray | None = None,
    ) -> None:
        """Add verdicts in any order.

        Args:
            columns: the columns of ``FOUND``, each of shape (n,).
            places: which of them (k,) come with images; what ``wants_images`` returned.
            x: their clean images, float32 (k, c, h, w).
            x_adv: what the attack made of these.
        """
        self._pending.append(self._keyed({name: np.asarray(columns[name]) for name in FOUND.names}))
        if places is not None and x is not None and x_adv is not None:
            self._examples.add({name: np.asarray(columns[name])[places] for name in FOUND.names}, x, x_adv)
        if time.monotonic() - self._last_flush >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is pending. Images go first: a verdict on disk means that its images are there too."""
        if not self._pending:
            return
        self._examples.write()
        if self._kept and self._pack is not None:
            packed = self._pack(*map(np.concatenate, zip(*self._kept, strict=True)))
            write_adversarials(self._parts / f"{self._next_part:06d}{SUFFIX}", [packed])
        self._kept = []
        now = time.monotonic()
        table = pa.concat_tables(self._pending).unify_dictionaries()
        shared = ("dataset", "seed", "randomised", "batch_dependent")
        run = {key: value for key, value in self._facts.items() if key not in shared}
        info = {
            "identity": self._unit.identity,
            "model": self._folder.identity.name,
            **{key: self._facts.get(key) for key in shared},
            "runs": [{**run, "seconds": round(now - self._clock, 3), "samples": len(table)}],
        }
        _write_table(self._parts / f"{self._next_part:06d}.parquet", table, info)
        self._next_part += 1
        self._pending = []
        self._clock = self._last_flush = now

    def gather(self, other: "ModelFolder", wanted: np.ndarray) -> dict[int, bool]:
        """Take over what another process has found of the samples ``wanted`` (int64); returns who of them is broken.

        A part that is still to come is taken at the next call; files appear whole or not at all.
        """
        taken: dict[int, bool] = {}
        parts = other.parts_folder(self._unit)
        for path in sorted(parts.glob("*.parquet")):
            if path in self._gathered:
                continue
            table, images = _read_table(path), path.with_suffix(SUFFIX)
            new = np.isin(table.column("sample").to_numpy(), np.setdiff1d(wanted, list(taken)))
            if self._pack is not None:  # what an earlier run, which was to keep no images, has left is searched again
                new &= ~needs_image(table) | np.isin(table.column("sample").to_numpy(), read_samples(images))
            self._gathered.add(path)
            if new.any():
                found = table.filter(pa.array(new))
                if images.exists():
                    write_adversarials(self._parts / f"{self._next_part:06d}{SUFFIX}", read_tables(images))
                _write_table(self._parts / f"{self._next_part:06d}.parquet", found, _info(table, path))
                self._next_part += 1
                taken |= dict(zip(found.column("sample").to_pylist(), found.column("success").to_pylist(), strict=True))
        examples = parts.with_suffix(".examples.npz")
        if taken and examples.exists():
            self._examples.take_over(read_arrays(examples))
            self._examples.write()
        return taken

    def checkpoint(self, record: Columns) -> None:
        """Keep what a search needs to continue from here; it is gone when the unit is complete."""
        self.flush()
        path = self._parts / f"record-{len(self.records()):06d}.npz"
        _write_arrays(path, record)

    def records(self) -> list[dict[str, np.ndarray]]:
        """What ``checkpoint`` was given, in order, by this run and by those that were interrupted."""
        return [read_arrays(path) for path in sorted(self._parts.glob("record-*.npz"))]

    def _keyed(self, found: dict[str, np.ndarray]) -> pa.Table:
        n, unit, threat = len(found["sample"]), self._unit, self._unit.threat
        key = {
            "weights": self._folder.identity.weights_hash,
            "data": unit.data,
            "threat_norm": None if threat is None else threat.norm,
            "eps": None if threat is None else threat.eps,
            "eps_text": None if threat is None else threat.text,
            "attack": unit.label,
            "definition": unit.hash,
        }
        columns = [pa.array([key[f.name]] * n, _plain(f.type)).cast(f.type) for f in KEY]
        columns += [pa.array(found[f.name], f.type) for f in FOUND]
        return pa.Table.from_arrays(columns, schema=SCHEMA)


class _Examples:
    """The images of the ``EXAMPLES`` lowest sample indices of one unit."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: dict[int, dict[str, np.ndarray]] = {}
        self._changed = False
        if path.exists():
            stored = read_arrays(path)
            for place, sample in enumerate(stored["sample"]):
                self._held[int(sample)] = {name: values[place] for name, values in stored.items()}

    def places(self, samples: np.ndarray) -> np.ndarray:
        full = len(self._held) >= EXAMPLES
        wanted = samples < max(self._held) if full else np.ones(len(samples), dtype=bool)
        lowest_first = np.flatnonzero(wanted)[np.argsort(samples[wanted], kind="stable")]
        return lowest_first[:EXAMPLES]

    def add(self, columns: Columns, x: np.ndarray, x_adv: np.ndarray) -> None:
        for place, sample in enumerate(columns["sample"].tolist()):
            self._held[sample] = {
                "sample": np.asarray(sample),
                "label": columns["label"][place],
                "clean_prediction": columns["clean_prediction"][place],
                "adversarial_prediction": columns["adversarial_prediction"][place],
                "success": columns["success"][place],
                "x": np.asarray(x[place], dtype=np.float32),
                "x_adv": np.asarray(x_adv[place], dtype=np.float32),
            }
            if len(self._held) > EXAMPLES:
                del self._held[max(self._held)]
            self._changed = True

    def take_over(self, stored: Mapping[str, np.ndarray]) -> None:
        """Images that another process has kept."""
        places = self.places(stored["sample"])
        columns = {name: values[places] for name, values in stored.items() if name not in ("x", "x_adv")}
        self.add(columns, stored["x"][places], stored["x_adv"][places])

    def write(self) -> None:
        if not self._changed:
            return
        rows = [self._held[sample] for sample in sorted(self._held)]
        _write_arrays(self._path, {name: np.stack([row[name] for row in rows]) for name in rows[0]})
        self._changed = False


def needs_image(verdicts: pa.Table) -> np.ndarray:
    """Which verdicts rest on an adversarial image, bool (n,): clean mistakes need none."""
    return _needs_image({name: verdicts.column(name).to_numpy() for name in ("success", "clean_prediction", "label")})


def _needs_image(columns: Columns) -> np.ndarray:
    return np.asarray(columns["success"] & (columns["clean_prediction"] == columns["label"]))


def _judged_otherwise(everything: pa.Table, first: np.ndarray) -> np.ndarray:
    """Samples with a verdict that differs from their first one, whose places are given."""
    sample = everything.column("sample").to_numpy()
    known = first[np.searchsorted(sample[first], sample)]
    differs = np.zeros(len(sample), dtype=bool)
    for name in _WHAT_COUNTS:
        values = everything.column(name).to_numpy()
        differs |= values != values[known]
    return np.unique(sample[differs])


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file by name.

    An ``.examples.npz`` has sample, label, clean_prediction, adversarial_prediction (int64) and success (bool), each
    (n,); x and x_adv, float32 (n, c, h, w).

    Raises:
        AdvdpnpError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:
        raise AdvdpnpError(f"the file {path} is damaged; delete it and run the same evaluation again") from error


def _write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)


def read_verdicts(path: Path) -> Verdicts:
    """Read one complete verdict file.

    Raises:
        AdvdpnpError: the file is damaged or is no verdict file.
    """
    table = _read_table(path)
    frame = table.replace_schema_metadata(None).to_pandas()
    wrong = _contradiction(frame)
    if wrong:
        raise AdvdpnpError(f"the verdict file {path} was changed: {wrong}; delete it and run the same evaluation again")
    return Verdicts(path, frame, _info(table, path))


def _contradiction(frame: pd.DataFrame) -> str:
    """What no search can have written, in words; "" if there is nothing of the kind."""
    if frame["sample"].duplicated().any():
        return "it judges samples twice"
    attacked = frame["threat_norm"].notna() & frame["success"] & (frame["clean_prediction"] == frame["label"])
    if not np.isfinite(frame.loc[attacked, "norm"]).all():
        return "samples count as broken by an image at no finite distance"
    return ""


def read_identity(path: Path) -> ModelIdentity:
    """Read a ``model.json``.

    Raises:
        AdvdpnpError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["class_names"] = tuple(content.get("class_names", ()))
        return ModelIdentity(**content)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise AdvdpnpError(
            f"{path} is damaged ({error}); run the evaluation again with the same --out to mend it"
        ) from error


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _read_table(path: Path) -> pa.Table:
    try:
        # A file of its own, not a data set: folder names with "=" in them must not become columns.
        table = pq.ParquetFile(path).read()
        table.validate(full=True)  # text that is no text would fail much later
    except (pa.ArrowException, ValueError, OSError) as error:
        raise AdvdpnpError(
            f"the verdict file {path} is damaged; delete it and run the same evaluation again, "
            "which searches only what it held"
        ) from error
    for name in _LATER:
        if name not in table.column_names:
            table = table.append_column(name, pa.array([-1] * len(table), pa.int64()))
    if not set(SCHEMA.names) <= set(table.column_names) or METADATA_KEY not in (table.schema.metadata or {}):
        raise AdvdpnpError(f"{path} is not a verdict file of advdpnp; move it out of this folder")
    return table.select(SCHEMA.names).cast(SCHEMA.with_metadata(table.schema.metadata))


def _info(table: pa.Table, path: Path) -> dict[str, Any]:
    try:
        info: dict[str, Any] = json.loads(table.schema.metadata[METADATA_KEY])
        if not (
            isinstance(info["identity"], dict) and all(isinstance(run["seconds"], int | float) for run in info["runs"])
        ):
            raise ValueError("another kind of metadata")
    except (ValueError, KeyError, TypeError) as error:
        raise AdvdpnpError(
            f"the metadata of {path} are damaged; delete it and run the same evaluation again"
        ) from error
    return info


def _write_table(path: Path, table: pa.Table, info: Mapping[str, Any]) -> None:
    metadata = {METADATA_KEY: json.dumps(info, sort_keys=True).encode()}
    with atomic_path(path) as temporary, contextlib.closing(open(temporary, "wb")) as stream:
        pq.write_table(table.replace_schema_metadata(metadata), stream, compression="zstd")


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
