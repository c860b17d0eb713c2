"""Accuracy against eps."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from advdpnp.eval.analysis.curves import CommonWorstCase, eps_labels, epsilon_curves
from advdpnp.eval.analysis.rows import Row
from advdpnp.eval.report.html.chart import lines, rounded, series
from advdpnp.eval.report.html.context import PageContext, scope_of
from advdpnp.eval.report.html.section import Section


def _gather(context: PageContext) -> Mapping[str, Any] | None:
    groups: dict[tuple[str, str, str, int, bytes], list[Row]] = defaultdict(list)
    for row in context.named_rows:
        if row.attacks and row.n:
            # Curves over other images do not stand side by side.
            groups[row.dataset, row.data, row.threat.norm, row.seed or 0, row.samples.tobytes()].append(row)
    blocks = [_block(context, groups[key]) for key in sorted(groups)]
    return {"blocks": blocks} if blocks else None


def _block(context: PageContext, rows: Sequence[Row]) -> dict[str, Any]:
    worst_case, norm = CommonWorstCase.of(rows), rows[0].threat.norm.capitalize()
    ticks = [(0.0, "clean"), *eps_labels(rows).items()]
    drawn = [
        series(context.model_of(curve.row), [(eps, rounded(value)) for eps, value in curve.points])
        for curve in epsilon_curves(rows, worst_case)
    ]
    return {
        "scope": replace(scope_of(rows), threat=norm),
        "attacks": worst_case.label,
        "ticks": ticks,
        "chart": lines(f"eps ({norm})", ticks, drawn),
    }


SECTION = Section(
    "radius",
    "Radius",
    "Accuracy against eps",
    "How fast accuracy falls as eps grows; bands and bars are 95 % intervals, eps 0 is clean. All points of a "
    "chart are the worst case over the same attacks; a line needs three points (advdpnp eval --eps-curve gives nine).",
    _gather,
    narrow=True,
    template="epsilon_curve",
)
