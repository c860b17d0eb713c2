"""The figures of a set of results, drawn from rows and stored example images.

A figure draws numbers that ``eval.analysis`` has computed. Nothing here computes or prints.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from advdpnp.base.plotting import model_colours
from advdpnp.eval.analysis.rows import Row, make_rows
from advdpnp.eval.report.figures.accuracy import draw_accuracy
from advdpnp.eval.report.figures.corruptions import draw_corruptions
from advdpnp.eval.report.figures.epsilon_curve import draw_accuracy_against_eps
from advdpnp.eval.report.figures.examples import draw_examples
from advdpnp.eval.report.figures.transfer import draw_transfer
from advdpnp.eval.store.reader import find_results

_FIGURES: tuple[Callable[[Sequence[Row], dict[str, str], Path], list[Path]], ...] = (
    draw_accuracy,
    draw_accuracy_against_eps,
    draw_corruptions,
    draw_examples,
    draw_transfer,
)


def draw_figures(folders: Sequence[Path], out: Path) -> list[Path]:
    """Draw everything that the results in ``folders`` allow, as PNG files in ``out``; a model has one colour in all.

    Returns:
        The files written.

    Raises:
        AdvdpnpError: a folder holds no results, or a file is damaged.
    """
    return draw_rows(make_rows(find_results(folders)), out)


def draw_rows(rows: Sequence[Row], out: Path) -> list[Path]:
    """The same for rows already in hand."""
    rows = with_distinct_names(rows)
    colours = model_colours(sorted({row.model.name for row in rows}))
    return [path for draw in _FIGURES for path in draw(rows, colours, out)]


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


__all__ = ["draw_figures", "draw_rows", "with_distinct_names"]
