"""Tables beside the leaderboard with several lines per row of it: what ties them together, and how they are written."""

from typing import Any

import pandas as pd

from advdpnp.eval.analysis.rows import Row
from advdpnp.eval.report.schema import meaning_of

_KEY = ("model", "weights_hash", "dataset", "data_hash", "norm", "eps", "eps_text", "seed")
KEY_COLUMNS = {name: meaning_of(name) for name in _KEY}
"""The columns that say which row of ``leaderboard.csv`` a line belongs to, named as there, and what they say."""


def key_of(row: Row) -> dict[str, Any]:
    """The values of ``KEY_COLUMNS``."""
    values = (
        row.model.name, row.model.weights_hash, row.dataset, row.data, row.threat.norm, row.threat.eps,
        row.threat.eps_text, row.seed,
    )  # fmt: skip
    return dict(zip(_KEY, values, strict=True))


def to_csv(table: pd.DataFrame) -> str:
    """CSV text; percentages as they are, rounded already; what is not known is empty."""
    shown = table.astype({"seed": "Int64"}) if "seed" in table else table
    return str(shown.to_csv(index=False, lineterminator="\n"))
