"""Tables as CSV text."""

import pandas as pd

from advdpnp.eval.analysis.columns import percent_columns


def to_csv(table: pd.DataFrame) -> str:
    """CSV text; percentages as they are, rounded already; what is not known is empty."""
    shown = table.astype({"seed": "Int64"}) if "seed" in table else table
    return str(shown.to_csv(index=False, lineterminator="\n"))


def leaderboard_to_csv(frame: pd.DataFrame) -> str:
    """CSV text; accuracies and their bounds with exactly 2 decimals, what is not known is empty."""
    shown = frame.copy()
    for name in percent_columns(frame):
        shown[name] = [f"{value:.2f}" if pd.notna(value) else "" for value in frame[name]]
    return str(shown.to_csv(index=False, lineterminator="\n"))
