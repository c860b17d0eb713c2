"""The figures of a set of results, drawn from rows and stored example images.

A figure draws numbers that ``eval.analysis`` has computed. Nothing here computes or prints.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from advdpnp.base.plotting import Look, also_vectors, looks
from advdpnp.eval.analysis.rows import Row, make_rows
from advdpnp.eval.report.figures.accuracy import draw_accuracy
from advdpnp.eval.report.figures.corruptions import draw_corruptions
from advdpnp.eval.report.figures.epsilon_curve import draw_accuracy_against_eps
from advdpnp.eval.report.figures.examples import draw_examples
from advdpnp.eval.report.figures.transfer import draw_transfer
from advdpnp.eval.store.reader import find_results

MANY = 20
"""Models that a figure can show at once."""

_FIGURES: tuple[Callable[[Sequence[Row], dict[str, Look], Path], list[Path]], ...] = (
    draw_accuracy,
    draw_accuracy_against_eps,
    draw_corruptions,
    draw_examples,
    draw_transfer,
)


def draw_figures(folders: Sequence[Path], out: Path) -> list[Path]:
    """Draw everything that the results in ``folders`` allow, as PNG files in ``out``; a method has one colour in all.

    Returns:
        The files written.

    Raises:
        AdvdpnpError: a folder holds no results, or a file is damaged.
    """
    return draw_rows(make_rows(find_results(folders)), out)


def draw_rows(rows: Sequence[Row], out: Path, *, everything: bool = False, vectors: bool = False) -> list[Path]:
    """The same for rows already in hand.

    Args:
        everything: draw all models. Otherwise, of more than ``MANY``, figures show the best ones of each threat model,
            and none shows a single model.
        vectors: save each figure as PDF and SVG too.
    """
    rows, figures = with_distinct_names(rows), _FIGURES
    if not everything and is_crowded(rows):
        rows, figures = best_rows(rows, MANY), tuple(draw for draw in _FIGURES if draw is not draw_examples)
    drawn = looks({row.model.name: row.model.method for row in rows})
    with also_vectors(vectors):
        return [path for draw in figures for path in draw(rows, drawn, out)]


def is_crowded(rows: Sequence[Row]) -> bool:
    """Whether these are too many models for one figure."""
    return len({(row.model.name, row.model.weights_hash) for row in rows}) > MANY


def best_rows(rows: Sequence[Row], most: int) -> list[Row]:
    """Of each data set, threat model and seed the rows of the highest worst case, in their order."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.key[2:]].append(row)
    kept = set()
    for group in groups.values():
        order = sorted(group, key=lambda row: (row.misclassified_under_any.mean() if row.n else 1.0, row.key))
        kept |= {row.key for row in order[:most]}
    return [row for row in rows if row.key in kept]


def with_distinct_names(rows: Sequence[Row]) -> list[Row]:
    """Models of one name and different weights get the beginning of their hash added to it."""
    weights: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        weights[row.model.name].add(row.model.weights_hash)
    ambiguous = {name for name, hashes in weights.items() if len(hashes) > 1}
    return [
        replace(row, model=replace(row.model, name=f"{row.model.name} ({row.model.weights_hash[:4]})"))
        if row.model.name in ambiguous
        else row
        for row in rows
    ]


__all__ = ["MANY", "best_rows", "draw_figures", "draw_rows", "is_crowded", "with_distinct_names"]
