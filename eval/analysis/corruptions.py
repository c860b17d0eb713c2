"""Accuracy on corrupted images: means over the benchmark, its groups and its types, and the mCE."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from advdpnp.base.errors import AdvdpnpError
from advdpnp.corruption import BENCHMARK, EXTRA, GROUPS, SEVERITIES, in_order
from advdpnp.eval.analysis.rows import Row

MEAN = "corruptions"
"""Over the 75 cells of the benchmark."""
COUNT = f"{MEAN}_n"
"""Images behind these columns: those of the row that every cell has judged, which may be fewer than n."""

GROUP_COLUMNS = {**{f"{MEAN}_{group}": types for group, types in GROUPS.items()}, f"{MEAN}_extra": EXTRA}
TYPE = "corruption:"


def corruption_record(row: Row) -> dict[str, Any]:
    """Accuracies in percent: the mean of the benchmark, of each group and of each type, and where the images are from.

    A mean stands only where all its cells do: one over fewer types would pass for the number that others report.
    """
    cells = row.corruption_accuracy()
    if cells.empty or not cells["n"].iloc[0]:
        return {}
    types = {f"{TYPE}{name}": (name,) for name in cells["type"].unique()}
    means = {column: _mean(cells, names) for column, names in ({MEAN: BENCHMARK} | GROUP_COLUMNS | types).items()}
    return means | {COUNT: int(cells["n"].iloc[0]), "corruption_source": row.corruption_source}


def _mean(cells: pd.DataFrame, types: Sequence[str]) -> float:
    chosen = cells[cells["type"].isin(list(types))]
    complete = len(chosen) == len(types) * len(SEVERITIES)
    return round(100 * float(chosen["accuracy"].mean()), 2) if complete else float("nan")


def detail_columns(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns of groups and types that any record has, in the benchmark's order, a plug-in's types last."""
    present = {name for record in records for name in record}
    if MEAN not in present:
        return []
    types = in_order(name.removeprefix(TYPE) for name in present if name.startswith(TYPE))
    return [COUNT, *GROUP_COLUMNS, *(f"{TYPE}{name}" for name in types)]


def is_detail(column: str) -> bool:
    """Whether a column of the table is a mean of ``detail_columns``."""
    return column in GROUP_COLUMNS or column.startswith(TYPE)


def mean_corruption_errors(rows: Sequence[Row], baseline: str) -> list[tuple[float, str]]:
    """mCE of each row in percent: errors of a type over those of the baseline, averaged over the 15 types.

    Hendrycks and Dietterich 2019, section 3.1. It compares the same corruptions of the same images: where a row has
    others than the baseline, or the baseline makes no error on a type, it is NaN, and the text says why.

    Raises:
        AdvdpnpError: no row of that name has all cells.
    """
    errors = [_errors_by_type(row) for row in rows]
    bases = [
        (row, found)
        for row, found in zip(rows, errors, strict=True)
        if row.model.name == baseline and found is not None
    ]
    if not bases:
        names = sorted({row.model.name for row, found in zip(rows, errors, strict=True) if found is not None})
        raise AdvdpnpError(
            f"there is no model called '{baseline}' here, or it has not been judged on all 75 corruptions; "
            + (f"choose one of {', '.join(names)}" if names else "run 'advdpnp eval --corruptions auto' first")
        )
    return [_relative_error(row, found, bases) for row, found in zip(rows, errors, strict=True)]


def _relative_error(row: Row, errors: pd.Series | None, bases: Sequence[tuple[Row, pd.Series]]) -> tuple[float, str]:
    """mCE of one row against the first baseline that answered the same questions; NaN and why, if there is none."""
    if errors is None:
        return np.nan, "not all 75 corruptions were judged"
    name = bases[0][0].model.name
    same_data = [base for base in bases if base[0].data == row.data]
    if not same_data:
        return np.nan, f"{name} was judged on other data"
    alike = [base for base in same_data if base[0].corruption_source == row.corruption_source]
    if not alike:
        return np.nan, f"judged on {row.corruption_source}, {name} on {same_data[0][0].corruption_source}"
    samples = row.corruption_samples
    same_samples = [base for base in alike if np.array_equal(base[0].corruption_samples, samples)]
    if not same_samples:
        return np.nan, f"judged on {len(samples)} images, {name} on {len(alike[0][0].corruption_samples)}, not the same"
    asked = row.comparison_keys[MEAN]
    reference = next((found for base, found in same_samples if base.comparison_keys[MEAN] == asked), None)
    if reference is None:
        return np.nan, f"judged on corruptions of another seed or version than {name}"
    perfect = in_order(reference.index[reference == 0])
    if perfect:
        return np.nan, f"{name} makes no error on {', '.join(perfect)}, and nothing can be relative to that"
    return round(100 * float((errors / reference).mean()), 2), ""


def _errors_by_type(row: Row) -> pd.Series | None:
    """Sum of the error over the severities by type; None unless all cells are there."""
    cells = row.corruption_accuracy()
    cells = cells[cells["type"].isin(list(BENCHMARK))]
    if len(cells) < len(BENCHMARK) * len(SEVERITIES) or not cells["n"].iloc[0]:
        return None
    return (1 - cells["accuracy"]).groupby(cells["type"]).sum()


def corruption_notes(part: pd.DataFrame) -> list[str]:
    """Sentences that belong under a table with these columns: what its numbers do not tell by themselves."""
    notes = []
    if COUNT in part:
        fewer = part.loc[(part[COUNT] < part["n"]).fillna(False), COUNT]
        if len(fewer):
            numbers = " or ".join(map(str, sorted(set(fewer.tolist()))))
            notes.append(f"Corruptions were judged on fewer images than n: {numbers}.")
    if "mce_note" in part:
        whys = part[["model", "mce_note"]].drop_duplicates().to_dict("records")
        notes += [f"No mCE for {each['model']}: {each['mce_note']}." for each in whys if each["mce_note"]]
    return notes
