"""Accuracy on corrupted images: against severity, by type, and every cell."""

from collections.abc import Mapping, Sequence
from typing import Any

from advdpnp.corruption import BENCHMARK, GROUPS, SEVERITIES
from advdpnp.corruption.types import in_order
from advdpnp.eval.analysis.curves import CorruptionGrid, clean_accuracy, corruption_grids, shared_types, widest
from advdpnp.eval.analysis.rows import Row
from advdpnp.eval.report.html.chart import lines, rounded, series
from advdpnp.eval.report.html.context import Model, PageContext, choices, scope_of
from advdpnp.eval.report.html.section import Section

_GROUP_OF = {kind: group for group, kinds in GROUPS.items() for kind in kinds}


def _gather(context: PageContext) -> Mapping[str, Any] | None:
    blocks = [_block(context, grids) for _, grids in sorted(corruption_grids(context.named_rows).items())]
    return {"blocks": blocks} if blocks else None


def _block(context: PageContext, grids: Sequence[CorruptionGrid]) -> dict[str, Any]:
    rows, shared = [grid.row for grid in grids], shared_types(grids)
    named = sorted(((context.model_of(grid.row), grid) for grid in grids), key=lambda pair: pair[0].name)
    types = in_order(kind for grid in grids for kind in grid.types)
    severities = sorted({severity for grid in grids for severity in grid.severities})
    sizes = sorted({grid.n for grid in grids})
    return {
        "scope": scope_of(rows, threat=False, extra=rows[0].corruption_source),
        "fewer": sizes if sizes != sorted({row.n for row in rows}) else [],
        "shared": len(shared),
        "complete": shared >= set(BENCHMARK),
        "benchmark": set(types) >= set(BENCHMARK),
        "chart": _against_severity(named, shared, severities) if shared else None,
        "types": [(kind, _GROUP_OF.get(kind, "extra")) for kind in types],
        "severities": severities,
        "widest": widest(sizes[0]),
        "by_type": [
            (model, _benchmark_mean(grid), grid.by_type.reindex(types).tolist(), _mce(context, grid.row))
            for model, grid in named
        ],
        "choices": choices([model for model, _ in named]),
        "mce_baseline": _baseline(context),
        "grids": [(model, round(clean_accuracy(grid.row), 2), _by_severity(grid, types)) for model, grid in named],
    }


def _against_severity(
    named: Sequence[tuple[Model, CorruptionGrid]], shared: set[str], severities: Sequence[int]
) -> dict[str, Any]:
    drawn = [
        series(model, [(float(x), rounded(accuracy)) for x, accuracy in grid.against_severity(shared)])
        for model, grid in named
    ]
    return lines("severity", [(0, "clean"), *((s, str(s)) for s in severities)], drawn)


def _benchmark_mean(grid: CorruptionGrid) -> float:
    """The mean of the benchmark in percent; NaN where a cell is missing."""
    cells = grid.cells.reindex(index=list(BENCHMARK), columns=list(SEVERITIES)).to_numpy()
    return 100 * float(cells.mean())


def _by_severity(grid: CorruptionGrid, types: Sequence[str]) -> list[tuple[int, list[float], float]]:
    """A line per severity: accuracy of each type, and the mean over the benchmark's types, in percent."""
    cells = grid.percent.reindex(list(types))
    return [
        (severity, cells[severity].tolist(), 100 * float(grid.averaged[severity].mean()))
        for severity in grid.severities
    ]


def _baseline(context: PageContext) -> str:
    return str(context.frame["mce_baseline"].iloc[0]) if "mce_baseline" in context.frame else ""


def _mce(context: PageContext, row: Row) -> float | None:
    if "mce" not in context.frame:
        return None
    mine = context.frame["weights_hash"].eq(row.model.weights_hash) & context.frame["data_hash"].eq(row.data)
    known = context.frame.loc[mine, "mce"].dropna()
    return float(known.iloc[0]) if len(known) else None


SECTION = Section(
    "corruptions",
    "Corruptions",
    "Common corruptions",
    "Accuracy in percent on corrupted images. The mean is over the 75 cells of the benchmark; the extra types never "
    "enter it. Official files and regenerated images are never mixed.",
    _gather,
)
