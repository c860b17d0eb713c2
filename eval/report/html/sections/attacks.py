"""Models against attacks, and against each other's adversarial images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advdpnp.attacks.algorithms.transfer import PREFIX
from advdpnp.eval.analysis.rows import Row, order_attacks
from advdpnp.eval.report.html.section import Section
from advdpnp.eval.report.html.subject import PageContext, scope_of


def _gather(subject: PageContext) -> Mapping[str, Any] | None:
    blocks = [_block(subject, rows) for _, rows in subject.groups()]
    return {"blocks": blocks} if blocks else None


def _block(subject: PageContext, rows: Sequence[Row]) -> dict[str, Any]:
    every = order_attacks(rows)
    own = [attack for attack in every if not attack.startswith(PREFIX)]
    sources = [attack for attack in every if attack.startswith(PREFIX)]
    return {
        "scope": scope_of(rows),
        "attacks": ["clean", *own, "worst_case"],
        "lines": [
            (subject.model_of(row), [_clean(row), *(_under(row, [name]) for name in own), _under(row, [*row.attacks])])
            for row in rows
        ],
        "sources": [source.removeprefix(PREFIX) for source in sources],
        "transfers": [
            (subject.model_of(row), [_clean(row), *(_under(row, [name]) for name in sources), _under(row, own)])
            for row in rows
            if sources
        ],
    }


def _clean(row: Row) -> float | None:
    return 100 * float((~row.clean_wrong).mean()) if row.n else None


def _under(row: Row, attacks: Sequence[str]) -> float | None:
    """Accuracy in percent under all of these together; None without any."""
    wrong = [row.misclassified_under(attack) for attack in attacks if attack in row.attacks]
    return 100 * float((~np.logical_or.reduce(wrong)).mean()) if wrong and row.n else None


SECTION = Section(
    "attacks",
    "Attacks",
    "Models against attacks",
    "Accuracy in percent under each attack alone, from cheap to dear. Where a column to the right is higher than one "
    "to its left, look at the flags.",
    _gather,
)
