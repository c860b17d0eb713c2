"""Tables as CSV text."""

from typing import Any

import pandas as pd

from advdpnp.base.untrusted.text import csv_cell
from advdpnp.eval.analysis.columns import percent_columns


def to_csv(table: pd.DataFrame, **options: Any) -> str:
    """CSV text; percentages as they are, rounded already; what is not known is empty.

    Args:
        options: of pandas.
    """
    shown = table.astype({"seed": "Int64"}) if "seed" in table else table.copy()
    for name in shown.select_dtypes(["object", "string"]):
        shown[name] = shown[name].map(csv_cell)
    shown.columns = [csv_cell(name) for name in shown.columns]
    return str(shown.to_csv(index=False, lineterminator="\n", **options))


def leaderboard_to_csv(frame: pd.DataFrame) -> str:
    """CSV text; accuracies and their bounds with exactly 2 decimals, what is not known is empty."""
    shown = frame.copy()
    for name in percent_columns(frame):
        shown[name] = [f"{value:.2f}" if pd.notna(value) else "" for value in frame[name]]
    return to_csv(shown)
