"""Accuracy per class: a mean hides the classes that pay for it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from advdpnp.eval.analysis.curves import widest
from advdpnp.eval.analysis.per_class import per_class_accuracy
from advdpnp.eval.analysis.rows import Row, order_attacks
from advdpnp.eval.report.html.context import PageContext, scope_of
from advdpnp.eval.report.html.section import Section

SHOWN = 40
"""Classes of a block; of more, the hardest are shown. All are in ``per-class.csv``."""


def _gather(context: PageContext) -> Mapping[str, Any] | None:
    blocks = [_block(context, rows) for _, rows in context.groups() if rows[0].n]
    return {"blocks": blocks} if blocks else None


def _block(context: PageContext, rows: Sequence[Row]) -> dict[str, Any]:
    tables = [(context.model_of(row), per_class_accuracy(row)) for row in rows]
    measures = ["worst_case", "clean", *order_attacks(rows)]
    classes = list(dict.fromkeys(str(name) for _, table in tables for name in table.index))
    views = {measure: {model.number: _column(table, measure) for model, table in tables} for measure in measures}
    hardest = sorted(classes, key=lambda name: _mean(views["worst_case"], name))
    shown = [name for name in classes if name in set(hardest[:SHOWN])]
    return {
        "scope": scope_of(rows),
        "classes": shown,
        "choices": [(None, measure.replace("_", " ")) for measure in measures],
        "all": len(classes),
        "widest": widest(min(int(np.unique(row.labels, return_counts=True)[1].min()) for row in rows)),
        "models": [model for model, _ in tables],
        "views": [
            (measure, {number: [column.get(name) for name in shown] for number, column in views[measure].items()})
            for measure in measures
        ],
    }


def _column(table: pd.DataFrame, measure: str) -> dict[str, float]:
    return {str(name): float(value) for name, value in table[measure].items()} if measure in table else {}


def _mean(view: Mapping[int, Mapping[str, float]], name: str) -> float:
    known = [column[name] for column in view.values() if name in column]
    return sum(known) / len(known) if known else float("inf")


SECTION = Section(
    "classes",
    "Classes",
    "Accuracy per class",
    "Robustness often differs between classes. The gap is between the best and the worst class of a model.",
    _gather,
)
