"""Several evaluations of one question: what they may differ in, what they may not, and which verdict counts.

The same search of the same images on another machine can come out otherwise for a few images. So an image counts as
broken where any of them says so, and the row tells it: whoever adds results can lower a number and not raise it. Labels
and what the model says of clean images cannot differ honestly; such results are refused.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.store.reader import StoredEvaluation
from advdpnp.eval.store.schema import FOUND

_TIED = 0.01  # of the largest margin: below it, another machine may predict another class


def refuse_contradictions(units: Sequence[StoredEvaluation]) -> None:
    """Compare the labels and the clean predictions of one model's evaluations on one data set.

    Raises:
        AdvdpnpError: two evaluations differ.
    """
    known: dict[str, StoredEvaluation] = {}
    first = next((unit for unit in units if unit.is_clean), None)
    for unit in sorted(units, key=lambda unit: unit is not first):
        reference = known.setdefault("labels", unit)
        _compare(reference, unit, "label")
        if first is not None and unit is not first and not unit.corrupted:
            _compare(first, unit, "clean_prediction")


def _compare(a: StoredEvaluation, b: StoredEvaluation, column: str) -> None:
    if a is b:
        return
    shared, here, there = _places(a, b)
    ours, theirs = a.column(column)[here], b.column(column)[there]
    differs = ours != theirs
    if column == "clean_prediction" and differs.any():
        differs &= ~_may_differ(a)[here]
    if differs.any():
        place = int(differs.argmax())
        what = column.replace("_", " ")
        raise AdvdpnpError(
            f"results contradict each other: sample {shared[place]} has {what} {ours[place]} in {_name(a)} and "
            f"{theirs[place]} in {_name(b)}; one was changed: advdpnp verify says which, then move it out of the folder"
        )


def _may_differ(clean: StoredEvaluation) -> np.ndarray:
    """Samples of the clean images, bool (n,), whose prediction another machine or another batch may change."""
    if clean.info.get("randomised") or clean.info.get("batch_dependent"):
        return np.ones(len(clean.samples), bool)
    margin = np.abs(clean.column("margin"))
    return np.asarray(~(margin > _TIED * np.nanmax(margin, initial=1.0)))


def _places(a: StoredEvaluation, b: StoredEvaluation) -> tuple[np.ndarray, np.ndarray | slice, np.ndarray | slice]:
    """The samples that both have judged, and where they stand in each."""
    if np.array_equal(a.samples, b.samples):
        return a.samples, slice(None), slice(None)
    shared, here, there = np.intersect1d(a.samples, b.samples, assume_unique=True, return_indices=True)
    return shared, here, there


def worst_of(unit: StoredEvaluation, others: Sequence[StoredEvaluation]) -> tuple[StoredEvaluation, str]:
    """An evaluation in which a sample is broken where it or any of ``others``, of the same question, says so.

    Returns:
        the evaluation, and what differs, in words; "" if nothing.
    """
    said = []
    for other in others:
        _, here, there = _places(unit, other)
        more = other.column("success")[there] & ~unit.column("success")[here]
        less = unit.column("success")[here] & ~other.column("success")[there]
        if not (more.any() or less.any()):
            continue
        said.append(f"{unit.label}: {_name(unit)} and {_name(other)} differ on {int((more | less).sum())} images")
        taken = other.verdicts.frame[there][more]
        left = unit.verdicts.frame[~np.isin(unit.samples, taken["sample"])]
        frame = pd.concat([left, taken]).sort_values("sample", ignore_index=True)
        table = pa.Table.from_pandas(frame, schema=FOUND, preserve_index=False)
        unit = replace(unit, verdicts=replace(unit.verdicts, table=partial(pa.Table.slice, table)))
    return unit, "; ".join(said)


def _name(unit: StoredEvaluation) -> str:
    return f"{unit.folder.name} ({unit.hash})"
