"""Adversarial examples as pictures."""

from collections.abc import Mapping
from typing import Any

from advdpnp.base.plotting import signed_colours
from advdpnp.eval.analysis.rows import Examples, Row
from advdpnp.eval.report.html.context import PageContext, choices, scope_of
from advdpnp.eval.report.html.images import picture
from advdpnp.eval.report.html.section import Section

BUDGET = 1_500_000
"""Characters of all pictures; models beyond it have none, and the page says so."""


def _gather(context: PageContext) -> Mapping[str, Any] | None:
    blocks, spent, left_out = [], 0, 0
    for _, rows in context.groups():
        panels = []
        for row in rows:
            if spent > BUDGET:
                left_out += 1
            elif panel := _panel(row):
                panels.append({"model": context.model_of(row), **panel})
                spent += sum(len(shown) for card in panel["cards"] for _, shown in card["pictures"])
        if panels:
            blocks.append(
                {"scope": scope_of(rows), "panels": panels, "choices": choices([panel["model"] for panel in panels])}
            )
    return {"blocks": blocks, "left_out": left_out} if blocks else None


def _panel(row: Row) -> dict[str, Any] | None:
    if row.examples is None:
        return None
    stored = row.examples.images
    cards = [_card(row, row.examples, place) for place in range(len(stored["sample"]))]
    return {"attack": row.examples.attack, "largest": f"{row.examples.largest:.2g}", "cards": cards}


def _card(row: Row, examples: Examples, place: int) -> dict[str, Any]:
    stored = examples.images
    x, x_adv = stored["x"][place], stored["x_adv"][place]
    label, before, after = (
        int(stored[name][place]) for name in ("label", "clean_prediction", "adversarial_prediction")
    )
    changed = bool((x_adv != x).any())
    pictures = [("clean", picture(x))]
    if changed:
        shown = signed_colours(examples.change[place], examples.largest)
        pictures += [("adversarial", picture(x_adv)), ("difference", picture(shown.transpose(2, 0, 1)))]
    state = "wrong unchanged" if before != label else "broken" if after != label else "not broken"
    return {
        "sample": int(stored["sample"][place]),
        "label": row.class_name(label),
        "before": row.class_name(before),
        "after": row.class_name(after),
        "state": state,
        "pictures": pictures,
    }


SECTION = Section(
    "examples",
    "Examples",
    "Adversarial examples",
    "The first test images under the most expensive attack: clean, adversarial, and their difference (mean of the "
    "channels: red where lighter, blue where darker). Every image was verified inside the box and inside eps.",
    _gather,
)
