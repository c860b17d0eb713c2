"""Accuracy against eps."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from advdpnp.eval.analysis.rows import Row, order_attacks
from advdpnp.eval.report.figures.radius import common_attacks, wrong_under
from advdpnp.eval.report.html.chart import lines, series, share
from advdpnp.eval.report.html.section import Section
from advdpnp.eval.report.html.subject import PageContext, scope_of


def _gather(subject: PageContext) -> Mapping[str, Any] | None:
    groups: dict[tuple[str, str, str, int, bytes], list[Row]] = defaultdict(list)
    for row in subject.named_rows:
        if row.attacks and row.n:
            # Curves over other images do not stand side by side.
            groups[row.dataset, row.data, row.threat.norm, row.seed or 0, row.samples.tobytes()].append(row)
    blocks = [_block(subject, groups[key]) for key in sorted(groups)]
    return {"blocks": blocks} if blocks else None


def _block(subject: PageContext, rows: Sequence[Row]) -> dict[str, Any]:
    common, norm = common_attacks(rows), rows[0].threat.norm
    radii = {row.threat.eps: row.threat.eps_text for row in rows}
    curves: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.threat.eps):
        curves[row.model.name].append(row)
    drawn = []
    for name in sorted(curves):
        mine = curves[name]
        clean = max(mine, key=lambda row: row.n).clean_wrong
        points = [(0.0, share(clean)), *((row.threat.eps, share(wrong_under(row, common))) for row in mine)]
        drawn.append(series(subject.model_of(mine[0]), points))
    scope = scope_of(rows)
    return {
        "scope": replace(scope, threat=norm.capitalize()),
        "attacks": ", ".join(name for name in order_attacks(rows) if name in common) or "all attacks that ran",
        "radii": [(0.0, "clean"), *sorted(radii.items())],
        "chart": lines(f"eps ({norm.capitalize()})", [(0.0, "clean"), *sorted(radii.items())], drawn),
    }


SECTION = Section(
    "radius",
    "Radius",
    "Accuracy against eps",
    "How fast accuracy falls as the adversary may do more; bands are 95 % intervals, eps 0 is clean. All points of a "
    "chart are the worst case over the same attacks.",
    _gather,
    narrow=True,
)
