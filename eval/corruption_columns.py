"""The columns of the leaderboard that say how models do on corrupted images."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from advdpnp.corruption import BENCHMARK, EXTRA, GROUPS, SEVERITIES
from advdpnp.errors import AdvdpnpError
from advdpnp.eval.results import Row

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
    types = [name.removeprefix(TYPE) for name in present if name.startswith(TYPE)]
    usual = [name for name in BENCHMARK + EXTRA if name in types]
    return [COUNT, *GROUP_COLUMNS, *(f"{TYPE}{name}" for name in [*usual, *sorted(set(types) - set(usual))])]


def is_detail(column: str) -> bool:
    """Whether a column of the table is a mean of ``detail_columns``."""
    return column in GROUP_COLUMNS or column.startswith(TYPE)


def mean_corruption_errors(rows: Sequence[Row], baseline: str) -> list[float]:
    """mCE of each row in percent: errors of a type over those of the baseline, averaged over the 15 types.

    Hendrycks and Dietterich 2019, section 3.1. NaN where a row has not all 75 cells, or is of other data.

    Raises:
        AdvdpnpError: no row of that name has all cells, or official images meet regenerated ones.
    """
    errors = [_errors_by_type(row) for row in rows]
    known = [place for place, row in enumerate(rows) if row.model.name == baseline and errors[place] is not None]
    if not known:
        names = sorted({row.model.name for row, found in zip(rows, errors, strict=True) if found is not None})
        raise AdvdpnpError(
            f"there is no model called '{baseline}' here, or it has not been judged on all 75 corruptions; "
            + (f"choose one of {', '.join(names)}" if names else "run 'advdpnp eval --corruptions auto' first")
        )
    base, reference = rows[known[0]], errors[known[0]]
    assert reference is not None
    means = []
    for row, found in zip(rows, errors, strict=True):
        if found is None or row.data != base.data:
            means.append(np.nan)
            continue
        if row.corruption_source != base.corruption_source:
            raise AdvdpnpError(
                f"{row.model.name} was judged on {row.corruption_source} and the baseline {baseline} on "
                f"{base.corruption_source}; an mCE between the two means nothing"
            )
        means.append(round(100 * float((found / reference).mean()), 2))
    return means


def _errors_by_type(row: Row) -> pd.Series | None:
    """Sum of the error over the severities by type; None unless all cells are there."""
    cells = row.corruption_accuracy()
    cells = cells[cells["type"].isin(list(BENCHMARK))]
    if len(cells) < len(BENCHMARK) * len(SEVERITIES) or not cells["n"].iloc[0]:
        return None
    return (1 - cells["accuracy"]).groupby(cells["type"]).sum()
