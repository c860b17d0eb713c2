"""Tables in Markdown."""

from collections.abc import Iterable, Sequence

import pandas as pd


def escape(text: str) -> str:
    """Text of a user's that stands in a cell."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")


def number(value: float) -> str:
    """With 2 decimals; a dash for what is not known."""
    return "–" if pd.isna(value) else f"{value:.2f}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; the first column and flags are words and begin at the left, numbers end at the right."""
    rule = [":--" if head in (heads[0], "flags") else "--:" for head in heads]
    return ["| " + " | ".join(heads) + " |", "|" + "|".join(rule) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
