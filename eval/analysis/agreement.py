"""Agreement between attacks: whether they break the same images."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from advdpnp.eval.analysis.columns import KEY_COLUMNS, key_of
from advdpnp.eval.analysis.rows import Row, order_attacks

MEANINGS = {
    **KEY_COLUMNS,
    "attack": "breaks the images that are counted here",
    "other": "the attack that is compared with it",
    "share": "percent of the images that attack breaks which other breaks as well; empty where it breaks none",
    "broken": "number of images that are right unchanged and that attack breaks",
    "alone": "number of these that no other attack of the row breaks",
}
"""The columns of ``agreement.csv``, and what each says."""


def agreement(row: Row) -> pd.DataFrame:
    """How far the attacks of a row break the same images. Images that are misclassified unchanged do not count.

    Returns:
        Index ``attack`` and a column per attack, both from cheap to expensive: of the images that the attack of the
        line breaks, the percentage that the attack of the column breaks as well, rounded to 2 decimals; NaN where it
        breaks none. Then ``broken``, how many it breaks, and ``alone``, how many of these nothing else breaks.
    """
    names = order_attacks([row])
    broken = np.array([row.misclassified_under(name) & ~row.clean_wrong for name in names], dtype=np.int64).reshape(
        len(names), row.n
    )
    shared, total = broken @ broken.T, broken.sum(1)
    share = np.full(shared.shape, np.nan)
    np.divide(100 * shared, total[:, None], out=share, where=total[:, None] > 0)
    table = pd.DataFrame(share.round(2), index=pd.Index(names, name="attack", dtype=object), columns=names)
    table["broken"] = total
    table["alone"] = (broken * (broken.sum(0) == 1)).sum(1)
    return table


def agreement_table(rows: Sequence[Row]) -> pd.DataFrame:
    """The same of several rows, one line per pair of different attacks; columns are those of ``MEANINGS``."""
    return pd.DataFrame([line for row in rows for line in _lines(row)], columns=list(MEANINGS))


def _lines(row: Row) -> Iterator[dict[str, Any]]:
    table = agreement(row)
    for attack, other in ((a, b) for a in table.index for b in table.index if a != b):
        found = {"share": table.at[attack, other], "broken": table.at[attack, "broken"]}
        yield key_of(row) | {"attack": attack, "other": other, **found, "alone": table.at[attack, "alone"]}
