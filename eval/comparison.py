"""Which models of a table differ by more than chance."""

from collections.abc import Sequence

import numpy as np

from advdpnp.eval.results import Row
from advdpnp.statistics import mcnemar

SIGNIFICANT = 0.05
"""Below this, a model is worse than the best one, not just unluckier."""


def against_the_best(rows: Sequence[Row]) -> list[float]:
    """For each row, p of its worst case against the best one under the same threat model (exact McNemar test).

    NaN for the best itself, and where nothing can be compared: other data, other images, other attacks, another seed.
    """
    return [_p(row, [other for other in rows if comparable(row, other)]) for row in rows]


def comparable(a: Row, b: Row) -> bool:
    """Whether two rows answer the same question about the same images."""
    same = (a.dataset, a.data, a.threat.norm, a.seed) == (b.dataset, b.data, b.threat.norm, b.seed)
    alike = same and a.threat.eps == b.threat.eps and set(a.attacks) == set(b.attacks)
    return alike and np.array_equal(a.samples, b.samples)


def _p(row: Row, rivals: Sequence[Row]) -> float:
    if not row.attacks or len(rivals) < 2:
        return float("nan")
    best = min(rivals, key=lambda each: int(each.broken_by_any.sum()))
    ours, theirs = row.broken_by_any, best.broken_by_any
    if ours.sum() == theirs.sum():
        return float("nan") if best is row else 1.0
    return round(mcnemar(int((ours & ~theirs).sum()), int((theirs & ~ours).sum())), 6)
