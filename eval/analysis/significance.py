"""Whether chance explains a difference: every row against the best one, and two models column by column."""

import difflib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.statistics import holm, mcnemar, paired_difference, paired_t
from advdpnp.corruption import BENCHMARK, SEVERITIES
from advdpnp.eval.analysis.comparability import comparison_key, why_column_incomparable, why_incomparable
from advdpnp.eval.analysis.corruptions import MEAN
from advdpnp.eval.analysis.rows import Row, order_attacks

COLUMNS = (
    "column", "a", "b", "difference", "difference_low", "difference_high", "only_a", "only_b", "p", "p_holm", "n",
)  # fmt: skip


class Significance(NamedTuple):
    """How likely a row's distance from the best one is if both are equally good.

    Attributes:
        p: exact McNemar test of this row against the best; NaN for the best itself and where there is no rival.
        corrected: the same by Holm, for the number of rows that are compared with the best.
    """

    p: float
    corrected: float


def against_the_best(rows: Sequence[Row]) -> list[Significance]:
    """For each row, its worst case against the best one that answers the same question about the same images.

    The best row is chosen on the same images, which no correction takes into account: a small lead is partly luck.
    """
    results = [Significance(math.nan, math.nan)] * len(rows)
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, row in enumerate(rows):
        if row.attacks:
            question = row.data, row.threat.norm, row.threat.eps, row.seed, comparison_key(row, "worst_case")
            groups.setdefault(question, []).append(index)
    for group in groups.values():
        best = min(group, key=lambda index: int(rows[index].misclassified_under_any.sum()))
        p = [math.nan if index == best else _worst_case_p(rows[index], rows[best]) for index in group]
        for index, value, corrected in zip(group, p, holm(p), strict=True):
            results[index] = Significance(round(value, 6), round(corrected, 6))
    return results


def _worst_case_p(row: Row, best: Row) -> float:
    ours, theirs = row.misclassified_under_any, best.misclassified_under_any
    return mcnemar(int((ours & ~theirs).sum()), int((theirs & ~ours).sum()))


def compare_models(rows: Sequence[Row], a: str, b: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Every column that two models share, under every threat model and seed that both were judged under.

    Args:
        rows: as ``make_rows`` makes them.
        a: name of a model, or its name and the first 8 digits of its weights' hash ("net-1a2b3c4d").
        b: the same of the model it is compared with.
        columns: compare only these; None takes all that both have.

    Returns:
        Columns model_a, model_b, dataset, threat, seed, and ``COLUMNS``: accuracies in percent; their difference a - b
        in points with a paired 95 % interval (Newcombe's method 10; for the mean over corruptions Student's t over
        images); on how many images only one of them is right, and p of the exact McNemar test on these (t for the
        mean); p corrected by Holm for the number of columns under this threat model.

    Raises:
        AdvdpnpError: there is no such model, or nothing of the two can be compared, and why.
    """
    mine, theirs = _rows_of(rows, a), _rows_of(rows, b)
    if mine[0].model.weights_hash == theirs[0].model.weights_hash:
        raise AdvdpnpError(f"{a} and {b} are the same weights; name two different models")
    pairs = [(x, y) for x in mine for y in theirs if not why_incomparable(x, y)]
    if not pairs:
        # Of what stands in the way, the reason that two rows of the same kind have says most.
        x, y = max(((x, y) for x in mine for y in theirs), key=_likeness)
        raise AdvdpnpError(
            f"{a} and {b} cannot be compared: {why_incomparable(x, y)}; evaluate both with the same options"
        )
    if any(x.attacks and y.attacks for x, y in pairs):  # clean images alone say nothing that is not said there too
        pairs = [(x, y) for x, y in pairs if x.attacks and y.attacks]
    return pd.concat([_compare(x, y, columns) for x, y in pairs], ignore_index=True)


def left_out(rows: Sequence[Row], a: str, b: str) -> list[str]:
    """Sentences about attacks that only one of the two models has, under threat models that both have."""
    sentences = []
    for x in _rows_of(rows, a):
        for y in _rows_of(rows, b):
            if x.attacks and y.attacks and not why_incomparable(x, y) and set(x.attacks) != set(y.attacks):
                alone = [f"{name} ({row.model.name} alone)" for row, other in ((x, y), (y, x))
                         for name in order_attacks([row]) if name not in other.attacks]  # fmt: skip
                sentences.append(f"{x.threat.label}: left out are {', '.join(alone)}, and so is worst_case")
    return sentences


def _rows_of(rows: Sequence[Row], name: str) -> list[Row]:
    found = [row for row in rows if name in (row.model.name, f"{row.model.name}-{row.model.weights_hash[:8]}")]
    if not found:
        names = sorted({row.model.name for row in rows})
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:20]
        hint = f"; choose one of {', '.join(close)}" if len(names) > 1 else f", only {names[0]}"
        raise AdvdpnpError(f"there is no model called '{name}' here{hint}")
    hashes = sorted({row.model.weights_hash for row in found})
    if len(hashes) > 1:
        spelled = " or ".join(f"{name}-{each[:8]}" for each in hashes)
        raise AdvdpnpError(f"there are {len(hashes)} different models called '{name}'; write {spelled}")
    return found


def _likeness(pair: tuple[Row, Row]) -> tuple[bool, bool, bool]:
    x, y = pair
    return x.data == y.data, x.threat[:2] == y.threat[:2] and bool(x.attacks), x.seed == y.seed


def _compare(x: Row, y: Row, columns: Sequence[str] | None) -> pd.DataFrame:
    shared = _columns_of(x, y)
    for name in columns or ():
        if name not in shared:
            why = why_column_incomparable(x, y, name) if name == "worst_case" and x.attacks and y.attacks else ""
            why = why or f"not both have the column '{name}'; they share {', '.join(shared)}"
            raise AdvdpnpError(f"{x.model.name} and {y.model.name} cannot be compared: {why}")
    chosen = [name for name in shared if columns is None or name in columns]
    for name in chosen:
        if name != "clean" and (why := why_column_incomparable(x, y, name)):
            others = [each for each in shared if each == "clean" or not why_column_incomparable(x, y, each)]
            raise AdvdpnpError(
                f"{x.model.name} and {y.model.name} cannot be compared: {why}; evaluate both alike, or compare only "
                f"--columns {','.join(others)}"
            )
    records = [_column(x, y, name) for name in chosen]
    corrected = holm([record["p"] for record in records])
    told = {"model_a": x.model.name, "model_b": y.model.name, "dataset": x.dataset, "threat": x.threat.label}
    return pd.DataFrame(
        [
            {**told, "seed": "" if x.seed is None else str(x.seed), **record, "p_holm": p}
            for record, p in zip(records, corrected, strict=True)
        ],
        columns=[*told, "seed", *COLUMNS],
    )


def _columns_of(x: Row, y: Row) -> list[str]:
    """What both have; a worst case only over the same attacks, the mean over corruptions only over all its cells."""
    names = ["clean", *(name for name in order_attacks([x]) if name in y.attacks)]
    if x.attacks and set(x.attacks) == set(y.attacks):
        names.append("worst_case")
    cells = {(name, severity) for name in BENCHMARK for severity in SEVERITIES}
    return [*names, MEAN] if cells <= set(x.cells) and cells <= set(y.cells) else names


def _column(x: Row, y: Row, name: str) -> dict[str, float]:
    if name == MEAN:
        return _mean_over_corruptions(x, y)
    a, b = _right(x, name), _right(y, name)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    low, high = paired_difference(int((a & b).sum()), only_a, only_b, int((~a & ~b).sum()))
    return {
        "column": name, "n": x.n, "a": 100 * a.mean(), "b": 100 * b.mean(), "difference": 100 * (only_a - only_b) / x.n,
        "difference_low": 100 * low, "difference_high": 100 * high, "only_a": only_a, "only_b": only_b,
        "p": mcnemar(only_a, only_b),
    }  # fmt: skip


def _mean_over_corruptions(x: Row, y: Row) -> dict[str, float]:
    """The 75 cells show the same images: each image, not each cell, is one observation."""
    a, b = _share_of_cells(x), _share_of_cells(y)
    found = paired_t((100 * (a - b)).tolist())
    return {
        "column": MEAN, "n": len(a), "a": 100 * a.mean(), "b": 100 * b.mean(), "difference": found.value,
        "difference_low": found.low, "difference_high": found.high, "only_a": np.nan, "only_b": np.nan, "p": found.p,
    }  # fmt: skip


def _share_of_cells(row: Row) -> np.ndarray:
    """Per image, the share of the benchmark's cells on which the model is right, float64 (n,)."""
    cells = [unit for (name, _), unit in row.cells.items() if name in BENCHMARK]
    right = [~unit.success_on(row.corruption_samples) for unit in cells]
    return np.asarray(np.mean(right, axis=0))


def _right(row: Row, name: str) -> np.ndarray:
    if name == "clean":
        return ~row.clean_wrong
    return ~(row.misclassified_under_any if name == "worst_case" else row.misclassified_under(name))
