"""Accuracy per class."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from advdpnp.base.statistics import wilson
from advdpnp.eval.analysis.columns import KEY_COLUMNS, key_of
from advdpnp.eval.analysis.rows import Row, order_attacks

MEANINGS = {
    **KEY_COLUMNS,
    "class": "name of the class, or its number where the names are not known",
    "attack": "clean, the attack, or worst_case: the clean image and all attacks together",
    "accuracy": "percent of the n images of the class that stay right",
    "low": "low end of the 95 % Wilson interval of accuracy",
    "high": "high end of the 95 % Wilson interval of accuracy",
    "n": "number of images of the class",
}
"""The columns of ``per-class.csv``, and what each says."""


def per_class_accuracy(row: Row) -> pd.DataFrame:
    """Accuracy of each class of a row, in percent, rounded to 2 decimals.

    Returns:
        Index ``class``: names in the order of the logits; classes without an image are left out. Columns: clean, the
        attacks from cheap to expensive, worst_case (where there are attacks), n.
    """
    labels = row.labels
    present = np.unique(labels)
    right = {"clean": ~row.clean_wrong} | {attack: ~row.misclassified_under(attack) for attack in order_attacks([row])}
    if row.attacks:
        right["worst_case"] = ~row.misclassified_under_any
    columns: dict[str, Any] = {
        name: [round(100 * float(values[labels == label].mean()), 2) for label in present]
        for name, values in right.items()
    }
    columns["n"] = [int((labels == label).sum()) for label in present]
    index = pd.Index([row.class_name(int(label)) for label in present], name="class", dtype=object)
    return pd.DataFrame(columns, index=index)


def per_class_table(rows: Sequence[Row]) -> pd.DataFrame:
    """The same of several rows, one line per class and attack; columns are those of ``MEANINGS``."""
    return pd.DataFrame([line for row in rows for line in _lines(row)], columns=list(MEANINGS))


def _lines(row: Row) -> Iterator[dict[str, Any]]:
    table = per_class_accuracy(row)
    for attack in table.columns.drop("n"):
        for name, accuracy, n in zip(table.index, table[attack], table["n"], strict=True):
            low, high = wilson(round(accuracy * n / 100), n)
            bounds = {"low": round(100 * low, 2), "high": round(100 * high, 2)}
            yield key_of(row) | {"class": name, "attack": attack, "accuracy": accuracy, **bounds, "n": n}
