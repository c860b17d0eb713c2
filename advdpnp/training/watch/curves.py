"""``curves.png``: accuracies, MinSep, learning rate and every loss term of a run, over its epochs."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from advdpnp.base.plotting import GRID, INK, QUIET, bare, drawing, model_colours, spread_labels
from advdpnp.training.recipe import Recipe
from advdpnp.training.schedule import find_schedule

CURVES = "curves.png"

_SHARE = 0.05  # of the time of a run, for drawing
_GUESS = 0.5  # seconds of the first drawing
_COLUMNS = 3
_WIDTH, _HEIGHT = 3.1, 1.75  # inches of a panel
_TALLER = 1.35  # height of the first row of panels, in that of the others
_TITLE = 0.3  # inches
_WORDS = 0.74  # share of its two columns that the panel of accuracies leaves to the line; the rest names the lines
_LEAST_SPAN = 10.0  # degrees of MinSep: less would make a drama of a change that is none
_ACCURACIES = {
    "validation_clean": "clean",
    "validation_pgd": "PGD, cross-entropy",
    "validation_pgd_margin": "PGD, margin",
}
_OTHERS = {*_ACCURACIES, "epoch", "gap_p", "zero_gradient", "min_separation", "lr", "seconds"}


class Curves:
    """Draws the curves of a run after every epoch, but in no more than a twentieth of the time, and at the end.

    Args:
        path: of the picture.
        bound: largest MinSep that there can be, in degrees.
    """

    def __init__(self, path: Path, recipe: Recipe, bound: float) -> None:
        self._path, self._recipe, self._bound = path, recipe, bound
        self._seconds, self._since = _GUESS, time.monotonic()

    def draw(self, metrics: Sequence[Mapping[str, Any]], *, best: int) -> None:
        """Draw, if it is time; see ``draw_curves``."""
        now = time.monotonic()
        if len(metrics) < self._recipe.epochs and _SHARE * (now - self._since) < self._seconds:
            return
        draw_curves(self._path, metrics, self._recipe, best=best, bound=self._bound)
        self._since = time.monotonic()
        self._seconds = self._since - now


def draw_curves(path: Path, metrics: Sequence[Mapping[str, Any]], recipe: Recipe, *, best: int, bound: float) -> None:
    """Draw the finished epochs of a run; the axes are as long as the whole run.

    Args:
        metrics: one row per finished epoch, as in ``metrics.csv``.
        best: number of the epoch that is saved as ``best``.
        bound: largest MinSep that there can be, in degrees.
    """
    terms = [name for name in metrics[-1] if name not in _OTHERS and not name.endswith("accuracy")]
    terms = [name for name in terms if name == "loss" or any(row.get(name) != row["loss"] for row in metrics)]
    terms.sort(key=lambda name: name != "loss")
    rows = 1 + -(-(len(terms) + 1) // _COLUMNS)
    series = {name: np.array([row.get(name, np.nan) for row in metrics], dtype=float) for name in metrics[-1]}
    width, height = _COLUMNS * _WIDTH, (rows + _TALLER - 1) * _HEIGHT + _TITLE
    with drawing(path, width, height, crop=False) as figure:
        # A word on top of every panel names it, so that no legend and no axis label is needed.
        grid = figure.add_gridspec(
            rows, _COLUMNS, height_ratios=[_TALLER] + [1] * (rows - 1), hspace=0.45, wspace=0.25,
            left=0.5 / width, right=1 - 0.2 / width, bottom=0.3 / height, top=1 - (_TITLE + 0.3) / height,
        )  # fmt: skip
        _accuracies(figure.add_subplot(grid[0, : _COLUMNS - 1]), series, best)
        _separation(figure.add_subplot(grid[0, _COLUMNS - 1]), series, bound)
        _rates(figure.add_subplot(grid[1, 0]), series, recipe)
        for place, name in enumerate(terms, start=_COLUMNS + 1):
            _term(figure.add_subplot(grid[divmod(place, _COLUMNS)]), series, name)
        for axes in figure.axes:
            _finish(axes, recipe.epochs)
        epoch, name = int(series["epoch"][-1]), path.absolute().parent.name
        words = f"{name}: epoch {epoch} of {recipe.epochs}, best: {best} (dotted)"
        figure.text(0.5 / width, 1 - 0.12 / height, words, fontsize=11, va="top", fontweight="bold")


def _accuracies(axes: Axes, series: dict[str, np.ndarray], best: int) -> None:
    """Accuracies on the validation images, and thin and dashed those on the training images."""
    epochs, box = series["epoch"], axes.get_position()
    axes.set_position((box.x0, box.y0, _WORDS * box.width, box.height))
    colours = model_colours(list(_ACCURACIES))
    for name, values in series.items():
        if name.endswith("accuracy"):
            colour = colours["validation_pgd" if name.startswith("adv") else "validation_clean"]
            axes.plot(epochs, 100 * values, color=colour, linewidth=0.8, linestyle=(0, (3, 2)), alpha=0.7)
    last = [100 * series[name][-1] for name in _ACCURACIES]
    places = spread_labels(last, 9.0, 3.0, 97.0)
    for name, value, place in zip(_ACCURACIES, last, places, strict=True):
        axes.plot(epochs, 100 * series[name], color=colours[name], linewidth=1.6, marker=".", markersize=3)
        axes.annotate(
            f"{_ACCURACIES[name]} {value:.1f}", (1.01, place), xycoords=("axes fraction", "data"), fontsize=8,
            color=colours[name], va="center", annotation_clip=False,
        )  # fmt: skip
    axes.axvline(best, color=INK, linewidth=0.6, linestyle=":")
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.set_title("accuracy, % of the validation images; dashed: training", loc="left")


def _separation(axes: Axes, series: dict[str, np.ndarray], bound: float) -> None:
    values = series["min_separation"]
    _line(axes, series, values)
    low, high = (float(find(values)) for find in (np.nanmin, np.nanmax)) if np.isfinite(values).any() else (0.0, 0.0)
    axes.axhline(bound, color=QUIET, linewidth=0.8, linestyle=":")
    axes.annotate("simplex bound", (1, bound), xycoords=("axes fraction", "data"), fontsize=7, color=QUIET,
                  ha="right", va="bottom")  # fmt: skip
    high = max(high, bound)
    spare = max(0.08 * (high - low), (_LEAST_SPAN - (high - low)) / 2)
    axes.set_ylim(max(low - spare, 0), high + spare)
    axes.set_title(f"MinSep, degrees: {values[-1]:.1f}", loc="left")


def _rates(axes: Axes, series: dict[str, np.ndarray], recipe: Recipe) -> None:
    """The learning rate at the end of every epoch, on the schedule of the whole run."""
    values = recipe.optimiser
    schedule = find_schedule(values.schedule, decay=values.decay, epochs=recipe.epochs)
    planned = np.linspace(0, recipe.epochs, 201)
    axes.plot(planned, [values.lr * schedule(x / recipe.epochs) for x in planned], color=GRID, linewidth=2.5)
    _line(axes, series, series["lr"])
    axes.set_ylim(bottom=0)
    axes.set_title(f"learning rate: {series['lr'][-1]:.3g}", loc="left")


def _term(axes: Axes, series: dict[str, np.ndarray], name: str) -> None:
    _line(axes, series, series[name])
    axes.set_title(f"{name}: {series[name][-1]:.4g}", loc="left", fontweight="bold" if name == "loss" else "normal")


def _line(axes: Axes, series: dict[str, np.ndarray], values: np.ndarray) -> None:
    axes.plot(series["epoch"], values, color=INK, linewidth=1.2, marker=".", markersize=3)
    axes.yaxis.set_major_locator(MaxNLocator(3))


def _finish(axes: Axes, epochs: int) -> None:
    axes.set_xlim(0, 1.03 * epochs)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7)
    bare(axes, keep="bottom")
