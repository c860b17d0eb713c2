"""Writing the verdicts of one unit: in parts while its search is running, so that nothing found is lost."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from advdpnp.eval.store.adversarial_images import SUFFIX, read_samples, read_tables, write_adversarials
from advdpnp.eval.store.example_images import ExampleImages, read_arrays, write_arrays
from advdpnp.eval.store.key import EvaluationKey
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.schema import (
    FOUND,
    KEY,
    SCHEMA,
    Columns,
    needs_image,
    needs_image_columns,
    read_table,
    table_info,
    write_table,
)

FLUSH_SECONDS = 2.0

Pack = Callable[[np.ndarray, np.ndarray, np.ndarray], pa.Table]
"""Sample indices (n,), labels (n,) and adversarial images (n, c, h, w) to rows of ``adversarials``."""


class VerdictWriter:
    """Collects verdicts and writes them in parts, at most every ``FLUSH_SECONDS``.

    Attributes:
        differing: once the unit is complete: samples (int64) that were searched again and judged otherwise.
    """

    def __init__(
        self,
        parts: Path,
        identity: ModelRecord,
        unit: EvaluationKey,
        facts: Mapping[str, Any],
        pack: Pack | None = None,
    ) -> None:
        self._parts, self._identity, self._unit, self._pack = parts, identity, unit, pack
        self.differing = np.zeros(0, np.int64)
        self._facts = dict(facts)
        self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._pending: list[pa.Table] = []
        self._gathered: set[Path] = set()
        self._next_part = 1 + max((int(p.stem) for p in self._parts.glob("*.parquet") if p.stem.isdigit()), default=-1)
        self._examples = ExampleImages(self._parts.with_suffix(".examples.npz"))
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
        broken = needs_image_columns(columns)
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

    def note(self, **facts: Any) -> None:
        """Add facts to the run that later parts are stored with."""
        self._facts |= facts

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
        declared = {key: value for key, value in self._facts.items() if key == "attack_info"}
        run = {key: value for key, value in self._facts.items() if key not in (*shared, *declared)}
        info = {
            "identity": self._unit.identity,
            "model": self._identity.name,
            **{key: self._facts.get(key) for key in shared},
            **declared,
            "runs": [{**run, "seconds": round(now - self._clock, 3), "samples": len(table)}],
        }
        write_table(self._parts / f"{self._next_part:06d}.parquet", table, info)
        self._next_part += 1
        self._pending = []
        self._clock = self._last_flush = now

    def gather(self, parts: Path, wanted: np.ndarray) -> dict[int, bool]:
        """Take over what another process has put into ``parts``, of the samples ``wanted`` (int64).

        A part that is still to come is taken at the next call; files appear whole or not at all. Returns, for each
        sample taken over, whether it is broken.
        """
        taken: dict[int, bool] = {}
        for path in sorted(parts.glob("*.parquet")):
            if path in self._gathered:
                continue
            table, images = read_table(path), path.with_suffix(SUFFIX)
            new = np.isin(table.column("sample").to_numpy(), np.setdiff1d(wanted, list(taken)))
            if self._pack is not None:  # what an earlier run, which was to keep no images, has left is searched again
                new &= ~needs_image(table) | np.isin(table.column("sample").to_numpy(), read_samples(images))
            self._gathered.add(path)
            if new.any():
                found = table.filter(pa.array(new))
                if images.exists():
                    write_adversarials(self._parts / f"{self._next_part:06d}{SUFFIX}", read_tables(images))
                write_table(self._parts / f"{self._next_part:06d}.parquet", found, table_info(table, path))
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
        write_arrays(path, record)

    def records(self) -> list[dict[str, np.ndarray]]:
        """What ``checkpoint`` was given, in order, by this run and by those that were interrupted."""
        return [read_arrays(path) for path in sorted(self._parts.glob("record-*.npz"))]

    def _keyed(self, found: dict[str, np.ndarray]) -> pa.Table:
        n, unit, threat = len(found["sample"]), self._unit, self._unit.threat
        key = {
            "weights": self._identity.weights_hash,
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


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
