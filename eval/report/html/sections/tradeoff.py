"""Clean against robust accuracy: what robustness costs."""

from collections.abc import Mapping
from typing import Any

from advdpnp.eval.analysis.curves import CommonWorstCase, estimate
from advdpnp.eval.report.html.chart import rounded, scatter
from advdpnp.eval.report.html.context import PageContext, scope_of
from advdpnp.eval.report.html.section import Section


def _gather(context: PageContext) -> Mapping[str, Any] | None:
    blocks = []
    for _, rows in context.groups():
        worst_case = CommonWorstCase.of(rows)
        points = [
            (context.model_of(row), rounded(estimate(row.clean_wrong)), rounded(worst_case.estimate(row)))
            for row in rows
        ]
        chart = scatter("clean accuracy, %", "worst case, %", points)
        blocks.append({"scope": scope_of(rows), "attacks": worst_case.label, "points": points, "chart": chart})
    return {"blocks": blocks} if blocks else None


SECTION = Section(
    "tradeoff",
    "Trade-off",
    "Robust against clean",
    "Up and to the right is better; crosses are 95 % intervals. The worst case is over the attacks that all models of "
    "the chart have faced.",
    _gather,
    narrow=True,
)
