"""Accuracy on corrupted images: against severity, by type, and every cell."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from advdpnp.corruption import BENCHMARK, GROUPS, SEVERITIES
from advdpnp.corruption.types import in_order
from advdpnp.eval.analysis.rows import Row
from advdpnp.eval.report.figures.corruptions import shared_types
from advdpnp.eval.report.html.chart import lines, series
from advdpnp.eval.report.html.section import Section
from advdpnp.eval.report.html.subject import Model, PageContext, choices, scope_of

_GROUP_OF = {kind: group for group, kinds in GROUPS.items() for kind in kinds}


def _gather(subject: PageContext) -> Mapping[str, Any] | None:
    # Numbers on official images and on regenerated ones do not stand side by side, nor do those on other images.
    groups: dict[tuple[str, str, str], list[tuple[Row, pd.DataFrame]]] = defaultdict(list)
    for row in subject.rows_by_model():
        cells = row.corruption_accuracy()
        if len(cells) and cells["n"].min() > 0:
            groups[row.dataset, row.data, row.corruption_source].append((row, cells))
    blocks = [_block(subject, found) for _, found in sorted(groups.items())]
    return {"blocks": blocks} if blocks else None


def _block(subject: PageContext, found: Sequence[tuple[Row, pd.DataFrame]]) -> dict[str, Any]:
    named = sorted(((subject.model_of(row), row, cells) for row, cells in found), key=lambda each: each[0].name)
    shared = shared_types([cells for _, _, cells in named])
    types = in_order(kind for _, _, cells in named for kind in cells["type"])
    severities = sorted({int(severity) for _, _, cells in named for severity in cells["severity"]})
    rows = [row for row, _ in found]
    sizes = sorted({int(cells["n"].iloc[0]) for _, _, cells in named})
    return {
        "scope": scope_of(rows, threat=False, extra=rows[0].corruption_source),
        "fewer": sizes if sizes != sorted({row.n for row in rows}) else [],
        "shared": len(shared),
        "complete": shared >= set(BENCHMARK),
        "chart": _against_severity(named, shared, severities) if shared else None,
        "types": [(kind, _GROUP_OF.get(kind, "extra")) for kind in types],
        "severities": severities,
        "by_type": [
            (model, *_by_type(cells, types), _mce(subject, row)) for model, row, cells in named
        ],
        "choices": choices([model for model, _, _ in named]),
        "mce_baseline": _baseline(subject),
        "grids": [(model, _accuracy(~row.clean_wrong), _grid(cells, types, severities))
                  for model, row, cells in named],
    }  # fmt: skip


def _against_severity(
    named: Sequence[tuple[Model, Row, pd.DataFrame]], shared: set[str], severities: Sequence[int]
) -> dict[str, Any]:
    drawn = []
    for model, row, cells in named:
        mine = cells[cells["type"].isin(list(shared))]
        means = [(float(s), _mean_of(mine[mine["severity"] == s])) for s in severities]
        points = [(0.0, _accuracy(~row.clean_wrong)), *((s, round(mean, 2)) for s, mean in means if mean is not None)]
        drawn.append(series(model, [(x, [y]) for x, y in points]))
    return lines("severity", [(0, "clean"), *((s, str(s)) for s in severities)], drawn)


def _accuracy(right: np.ndarray) -> float:
    return round(100 * float(right.mean()), 2)


def _by_type(cells: pd.DataFrame, types: Sequence[str]) -> tuple[float | None, list[float | None]]:
    """The mean of the benchmark where it is complete, and the mean of each type, in percent."""
    usual = cells[cells["type"].isin(list(BENCHMARK))]
    complete = len(usual) == len(BENCHMARK) * len(SEVERITIES)
    mean = 100 * float(usual["accuracy"].mean()) if complete else None
    return mean, [_mean_of(cells[cells["type"] == kind]) for kind in types]


def _grid(
    cells: pd.DataFrame, types: Sequence[str], severities: Sequence[int]
) -> list[tuple[int, list[float | None], float | None]]:
    """A line per severity: accuracy of each type, and of all of them, in percent."""
    found = []
    for severity in severities:
        mine = cells[cells["severity"] == severity]
        found.append((severity, [_mean_of(mine[mine["type"] == kind]) for kind in types], _mean_of(mine)))
    return found


def _mean_of(cells: pd.DataFrame) -> float | None:
    return 100 * float(cells["accuracy"].mean()) if len(cells) else None


def _baseline(subject: PageContext) -> str:
    return str(subject.frame["mce_baseline"].iloc[0]) if "mce_baseline" in subject.frame else ""


def _mce(subject: PageContext, row: Row) -> float | None:
    if "mce" not in subject.frame:
        return None
    mine = subject.frame["weights_hash"].eq(row.model.weights_hash) & subject.frame["data_hash"].eq(row.data)
    known = subject.frame.loc[mine, "mce"].dropna()
    return float(known.iloc[0]) if len(known) else None


SECTION = Section(
    "corruptions",
    "Corruptions",
    "Common corruptions",
    "Accuracy in percent on corrupted images. The mean is over the 75 cells of the benchmark; the extra types never "
    "enter it. Official files and regenerated images are never mixed.",
    _gather,
)
