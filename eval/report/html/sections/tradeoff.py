"""Clean against robust accuracy: what robustness costs."""

from collections.abc import Mapping
from typing import Any

from advdpnp.eval.analysis.rows import order_attacks
from advdpnp.eval.report.figures.radius import common_attacks, wrong_under
from advdpnp.eval.report.html.chart import scatter, share
from advdpnp.eval.report.html.section import Section
from advdpnp.eval.report.html.subject import PageContext, scope_of


def _gather(subject: PageContext) -> Mapping[str, Any] | None:
    blocks = []
    for _, rows in subject.groups():
        common = common_attacks(rows)
        points = [(subject.model_of(row), share(row.clean_wrong), share(wrong_under(row, common))) for row in rows]
        blocks.append(
            {
                "scope": scope_of(rows),
                "attacks": ", ".join(name for name in order_attacks(rows) if name in common) or "all attacks that ran",
                "points": points,
                "chart": scatter("clean accuracy, %", "worst case, %", points),
            }
        )
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
