"""Whether attacks break the same images."""

from collections.abc import Mapping
from typing import Any

from advdpnp.eval.analysis.agreement import agreement
from advdpnp.eval.analysis.rows import Row
from advdpnp.eval.report.html.context import Model, PageContext, choices, scope_of
from advdpnp.eval.report.html.section import Section


def _gather(context: PageContext) -> Mapping[str, Any] | None:
    blocks = []
    for _, rows in context.groups():
        several = [row for row in rows if len(row.attacks) > 1]
        if several:
            panels = [_panel(context.model_of(row), row) for row in several]
            blocks.append(
                {"scope": scope_of(rows), "panels": panels, "choices": choices([panel["model"] for panel in panels])}
            )
    return {"blocks": blocks} if blocks else None


def _panel(model: Model, row: Row) -> dict[str, Any]:
    table = agreement(row)
    names = [str(name) for name in table.index]
    shares = table[names].to_numpy()
    return {
        "model": model,
        "attacks": names,
        "lines": [
            (name, [float(value) for value in line], int(broken), int(alone))
            for name, line, broken, alone in zip(names, shares, table["broken"], table["alone"], strict=True)
        ],
    }


SECTION = Section(
    "agreement",
    "Agreement",
    "Agreement between attacks",
    "Of the images that the attack of the line breaks, the percentage that the attack of the column breaks as well. "
    "What an attack breaks alone is what the others would have missed.",
    _gather,
)
