"""Which models can be compared, and which of them differ by more than chance."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from advdpnp.base.statistics import holm, mcnemar
from advdpnp.eval.analysis.rows import Row

SIGNIFICANT = 0.05
"""Below this, a model is worse than the best one, not just unluckier."""


class Significance(NamedTuple):
    """How likely a row's distance from the best one is if both are equally good.

    Attributes:
        p: exact McNemar test of this row against the best; NaN for the best itself and where there is no rival.
        corrected: the same by Holm, for the number of rows that are compared with the best.
    """

    p: float
    corrected: float


def against_the_best(rows: Sequence[Row]) -> list[Significance]:
    """For each row, its worst case against the best one that answers the same question about the same images.

    The best was chosen by the same images, which no correction takes into account: a small lead is luck in part.
    """
    chances = [Significance(math.nan, math.nan)] * len(rows)
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, row in enumerate(rows):
        if row.attacks:
            groups.setdefault(_question(row), []).append(place)
    for places in groups.values():
        best = min(places, key=lambda place: int(rows[place].misclassified_under_any.sum()))
        p = [math.nan if place == best else _p(rows[place], rows[best]) for place in places]
        for place, value, corrected in zip(places, p, holm(p), strict=True):
            chances[place] = Significance(round(value, 6), round(corrected, 6))
    return chances


def why_incomparable(a: Row, b: Row) -> str:
    """Why no number of two rows can be compared: other images, threat model or seed; "" if they can be."""
    if a.data != b.data:
        return f"they were judged on different data ({_data(a)} and {_data(b)})"
    if (a.threat.norm, a.threat.eps) != (b.threat.norm, b.threat.eps) and (a.attacks or b.attacks):
        return f"their threat models differ ({a.threat.label} and {b.threat.label})"
    if a.seed != b.seed:
        return f"their attacks were seeded differently ({a.seed} and {b.seed})"
    if a.samples_hash != b.samples_hash:
        return f"they were judged on different images ({a.n} and {b.n} of {a.dataset})"
    return ""


def why_column_incomparable(a: Row, b: Row, column: str) -> str:
    """Why one column, which both rows have, cannot be compared though the rows can; "" if it can be."""
    if column == "worst_case":
        if set(a.attacks) != set(b.attacks):
            return f"worst_case is over different attacks ({', '.join(a.attacks)} and {', '.join(b.attacks)})"
        return next((why for each in a.attacks if (why := why_column_incomparable(a, b, each))), "")
    if a.comparison_keys.get(column) == b.comparison_keys.get(column):
        return ""
    if column == "corruptions":
        if a.corruption_source != b.corruption_source:
            return f"their corrupted images differ ({a.corruption_source} and {b.corruption_source})"
        return "their corruptions are of other types, seeds or versions, or of other images"
    return f"'{column}' was not the same attack for both (other settings, package, precision or version)"


def _question(row: Row) -> tuple[object, ...]:
    """Equal for rows whose worst cases can be compared."""
    attacks = tuple(sorted((label, row.comparison_keys[label]) for label in row.attacks))
    return row.data, row.threat.norm, row.threat.eps, row.seed, row.samples_hash, attacks


def _p(row: Row, best: Row) -> float:
    ours, theirs = row.misclassified_under_any, best.misclassified_under_any
    return mcnemar(int((ours & ~theirs).sum()), int((theirs & ~ours).sum()))


def _data(row: Row) -> str:
    return f"{row.dataset} {row.data[:8]}"
