"""Models against attacks, and against each other's adversarial images."""

from collections.abc import Mapping, Sequence
from typing import Any

from advdpnp.attacks.algorithms.transfer import PREFIX
from advdpnp.eval.analysis.curves import (
    accuracy_under,
    clean_accuracy,
    direct_attacks,
    transfer_sources,
    transferred_images,
    widest,
)
from advdpnp.eval.analysis.rows import Row, order_attacks
from advdpnp.eval.report.html.context import Model, PageContext, scope_of
from advdpnp.eval.report.html.section import Section


def _gather(context: PageContext) -> Mapping[str, Any] | None:
    blocks = [_block(context, rows) for _, rows in context.groups()]
    return {"blocks": blocks} if blocks else None


def _block(context: PageContext, rows: Sequence[Row]) -> dict[str, Any]:
    attacks = order_attacks(rows)
    direct, sources = direct_attacks(rows), transfer_sources(rows)

    def lines(columns: Sequence[str], together: Sequence[str]) -> list[tuple[Model, list[float]]]:
        groups = [*([name] for name in columns), together]
        return [
            (context.model_of(row), [clean_accuracy(row), *(accuracy_under(row, group) for group in groups)])
            for row in rows
        ]

    return {
        "scope": scope_of(rows),
        "attacks": ["clean", *direct, "worst_case"],
        "lines": lines(direct, attacks),
        "sources": [source.removeprefix(PREFIX) for source in sources],
        "made": transferred_images(rows),
        "widest": widest(min(row.n for row in rows)),
        "transfers": lines(sources, direct) if sources else [],
    }


SECTION = Section(
    "attacks",
    "Attacks",
    "Models against attacks",
    "Accuracy in percent under each attack alone, from cheap to expensive. Where a column to the right is higher than "
    "one to its left, look at the flags.",
    _gather,
)
