"""The verdicts of one evaluation: collected in parts, which are written while its search runs, so none are lost.

000000.parquet        verdicts, with what their ``EvaluationRecord`` says in the metadata
000000.adversarials   their images, if there are any; written first
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from advdpnp.eval.store.adversarial_images import (
    EXAMPLES,
    SUFFIX,
    read_samples,
    read_tables,
    to_table,
    write_adversarials,
)
from advdpnp.eval.store.data_files import EvaluationData
from advdpnp.eval.store.index import EvaluationRecord
from advdpnp.eval.store.key import EvaluationKey, short_hash
from advdpnp.eval.store.schema import (
    FOUND,
    Columns,
    as_found,
    needs_image,
    read_arrays,
    read_table,
    write_arrays,
    write_table,
)

FLUSH_SECONDS = 2.0

_OF_A_PART = ("identity", "eps_text", "runs", "metadata", "image_shape", "saved")  # what it keeps of its record
# All else is of the evaluation.
_OF_A_RUN = ("versions", "device", "command", "date", "attacks", "copy_differs", "timed", "gradients")

Pack = Callable[[np.ndarray, np.ndarray, np.ndarray], pa.Table]
"""Sample indices (n,), labels (n,) and adversarial images (n, c, h, w) to rows of ``adversarial_images``."""


def write_part(path: Path, verdicts: pa.Table, record: EvaluationRecord) -> None:
    """Write the verdicts of a part, atomically; what counts its rows and images is not stored."""
    write_table(path, verdicts, {name: getattr(record, name) for name in _OF_A_PART})


def read_part(path: Path) -> EvaluationData:
    """Read a part; its images are read when they are asked for.

    Raises:
        AdvdpnpError: the file holds no verdicts.
    """
    table, said = read_table(path, FOUND, _OF_A_PART)
    said["image_shape"] = tuple(said["image_shape"])
    images = path.with_suffix(SUFFIX)
    return EvaluationData(
        EvaluationRecord(hash=short_hash(said["identity"]), rows=len(table), **said),
        as_found(table, path),
        partial(read_tables, images) if images.exists() else None,
        partial(read_samples, images) if said["saved"] else None,
    )


class VerdictCollector(ABC):
    """Collects verdicts and hands them on in parts, at most every ``FLUSH_SECONDS``.

    Attributes:
        differing: once the evaluation is complete: samples (int64) that were searched again and judged otherwise.
    """

    def __init__(self, unit: EvaluationKey, facts: Mapping[str, Any], pack: Pack | None = None) -> None:
        self._unit, self._pack = unit, pack
        self.differing = np.zeros(0, np.int64)
        self._facts = dict(facts)
        self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._packed: list[pa.Table] = []
        self._pending: list[pa.Table] = []
        self._first: list[int] = []  # the lowest samples so far
        self._examples: list[pa.Table] = []
        self._image_shape: tuple[int, ...] = ()
        self._parted = 0
        self._clock = self._last_flush = time.monotonic()

    def wants_images(self, samples: np.ndarray) -> np.ndarray:
        """Places in ``samples`` (int64 (n,)) whose images are to be given to ``add``: the first ones so far."""
        full = len(self._first) >= EXAMPLES
        wanted = samples < self._first[-1] if full else np.ones(len(samples), dtype=bool)
        lowest_first = np.flatnonzero(wanted)[np.argsort(samples[wanted], kind="stable")]
        return lowest_first[:EXAMPLES]

    def keep(self, columns: Columns, x_adv: np.ndarray) -> None:
        """Have the images of misclassified samples stored with the verdicts that ``add`` is given next.

        Args:
            columns: the columns of ``FOUND``, each of shape (n,).
            x_adv: what the attack made of each sample, float32 (n, c, h, w).
        """
        broken = needs_image(columns)
        self._image_shape = tuple(x_adv.shape[1:])
        if broken.any():
            sample, label = (np.asarray(columns[name])[broken] for name in ("sample", "label"))
            self._kept.append((sample, label, x_adv[broken]))

    def keep_packed(self, images: pa.Table, shape: tuple[int, ...]) -> None:
        """The same for images (c, h, w) that are compact already: rows of ``adversarial_images``."""
        self._image_shape = shape
        self._packed.append(images)

    def add(
        self,
        columns: Columns,
        places: np.ndarray | None = None,
        x: np.ndarray | None = None,
        x_adv: np.ndarray | None = None,
        seconds: float | None = None,
    ) -> None:
        """Add verdicts in any order.

        Args:
            columns: the columns of ``FOUND``, each of shape (n,).
            places: which of them (k,) come with images; what ``wants_images`` returned.
            x: their clean images, float32 (k, c, h, w).
            x_adv: what the attack made of these.
            seconds: that it took to find all of them; they are then a part of their own.
        """
        arrays = {name: np.asarray(columns[name]) for name in FOUND.names}
        self._pending.append(pa.table(arrays, schema=FOUND))
        if places is not None and x is not None and x_adv is not None and len(places):
            samples = arrays["sample"][places]
            self._first = np.union1d(self._first, samples)[:EXAMPLES].astype(int).tolist()
            self._image_shape = tuple(x.shape[1:])
            images = (torch.from_numpy(np.array(each, np.float32)) for each in (x_adv, x))
            self._examples.append(to_table(samples, [None] * len(samples), *images))
        if seconds is not None or time.monotonic() - self._last_flush >= FLUSH_SECONDS:
            self.flush(seconds)

    def note(self, **facts: Any) -> None:
        """Add facts to the run that later parts are stored with."""
        self._facts |= facts

    def count_parted(self, count: int) -> None:
        """Say how many of the samples that ``add`` is given next are ``AttackResult.parted``."""
        self._parted += count

    def flush(self, seconds: float | None = None) -> None:
        """Hand on what is pending.

        Args:
            seconds: that it took to find; None takes the time since the last call.
        """
        if not self._pending:
            return
        images = [*self._examples, *self._packed]
        if self._kept and self._pack is not None:
            images.append(self._pack(*map(np.concatenate, zip(*self._kept, strict=True))))
        now = time.monotonic()
        took = now - self._clock if seconds is None else seconds
        table = pa.concat_tables(self._pending)
        run = {key: self._facts[key] for key in _OF_A_RUN if key in self._facts}
        run |= {"parted": self._parted} if self._parted else {}
        record = EvaluationRecord(
            hash=self._unit.hash,
            identity=self._unit.identity,
            eps_text=self._unit.threat.text if self._unit.threat else "",
            rows=len(table),
            runs=[{**run, "seconds": round(took, 3), "samples": len(table)}],
            metadata={key: value for key, value in self._facts.items() if key not in _OF_A_RUN},
            image_shape=self._image_shape,
            saved=self._pack is not None,
        )
        self._write(table, record, images or None)
        # Only now: after an error all of it is pending still.
        self._pending, self._kept, self._packed, self._examples = [], [], [], []
        self._parted = 0
        self._clock = self._last_flush = now

    @abstractmethod
    def checkpoint(self, record: Columns) -> None:
        """Keep what a search needs to continue from here; it is gone when the evaluation is complete."""

    @abstractmethod
    def records(self) -> list[dict[str, np.ndarray]]:
        """What ``checkpoint`` was given, in order, by this run and by those that were interrupted."""

    @abstractmethod
    def _write(self, verdicts: pa.Table, record: EvaluationRecord, images: Iterable[pa.Table] | None) -> None:
        """Keep a part: verdicts, what is known of them, and tables of ``to_table``, at least one."""


class VerdictWriter(VerdictCollector):
    """Writes each part to files of a folder."""

    def __init__(self, parts: Path, unit: EvaluationKey, facts: Mapping[str, Any], pack: Pack | None = None) -> None:
        super().__init__(unit, facts, pack)
        self._parts = parts
        self._next_part = 1 + max((int(p.stem) for p in parts.glob("*.parquet") if p.stem.isdigit()), default=-1)

    def checkpoint(self, record: Columns) -> None:
        self.flush()
        write_arrays(self._parts / f"record-{len(self.records()):06d}.npz", record)

    def records(self) -> list[dict[str, np.ndarray]]:
        return [read_arrays(path) for path in sorted(self._parts.glob("record-*.npz"))]

    def _write(self, verdicts: pa.Table, record: EvaluationRecord, images: Iterable[pa.Table] | None) -> None:
        # Images go first: a verdict on disk means that its images are there too.
        path = self._parts / f"{self._next_part:06d}.parquet"
        if images is not None:
            write_adversarials(path.with_suffix(SUFFIX), images)
        write_part(path, verdicts, record)
        self._next_part += 1
