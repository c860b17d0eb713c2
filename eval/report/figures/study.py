"""Figures of a study: lines over a numeric factor, or every variant beside the default."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from advdpnp.base.plotting import GRID, INK, QUIET, bare, drawing, end_labels, model_colours
from advdpnp.training.study import DEFAULT, MEASURES, Study

_NAMES = {"clean": "clean accuracy", "worst_case": "worst-case accuracy", "min_separation": "MinSep"}
_UNITS = {"min_separation": "degrees"}


def draw_study(study: Study, table: pd.DataFrame, path: Path) -> list[Path]:
    """Draw what ``summary`` gives; nothing where there is nothing to compare."""
    if len(table) < 2:
        return []
    if study.curve is not None:
        _curves(study, table, path)
    else:
        _dots(study, table, path)
    return [path]


def _title(measure: str) -> str:
    return f"{_NAMES.get(measure, measure.replace('_', ' '))}, {_UNITS.get(measure, 'percent')}"


def _curves(study: Study, table: pd.DataFrame, path: Path) -> None:
    assert study.curve is not None
    x, lines = study.curve.x, study.curve.lines
    names = list(dict.fromkeys(table[lines, "value"]))
    colours = model_colours([str(name) for name in names])
    with drawing(path, 4.6 * len(study.curve.y), 3.4) as figure:
        figure.suptitle(study.description, x=0.08, ha="left", y=1.07, fontsize=10.5, fontweight="bold")
        figure.text(0.08, 0.985, _spread_words("bands", table), ha="left", color=QUIET, fontsize=8)
        for axes, measure in zip(figure.subplots(1, len(study.curve.y), squeeze=False)[0], study.curve.y, strict=True):
            ends: dict[str, tuple[float, float]] = {}
            for name in names:
                part = table[table[lines, "value"] == name].sort_values((x, "value"))
                places = part[x, "value"].astype(float).to_numpy()
                mean, spread = part[measure, "mean"].to_numpy(), part[measure, "std"].fillna(0).to_numpy()
                colour = colours[str(name)]
                lower, upper = _bounds(measure, mean - spread, mean + spread)
                axes.fill_between(places, lower, upper, color=colour, alpha=0.13, linewidth=0)
                axes.plot(places, mean, "-o", color=colour, linewidth=1.8, markersize=4.5, markeredgecolor="white")
                ends[str(name)] = (places[-1], mean[-1])
            axes.set_ylim(*_bounds(measure, *axes.get_ylim()))
            axes.set_xscale("log")
            ticks = sorted(set(table[x, "value"].astype(float)))
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            end_labels(axes, ends, colours, 0.062 * float(np.ptp(axes.get_ylim())))
            axes.yaxis.grid(True, color=GRID, linewidth=0.8)
            axes.set_axisbelow(True)
            bare(axes, keep="bottom")
            axes.set_xlabel(x.rpartition(".")[2].replace("_", " "), labelpad=6)
            axes.set_title(_title(measure), loc="left", color=QUIET)
        figure.subplots_adjust(wspace=0.42)


def _dots(study: Study, table: pd.DataFrame, path: Path) -> None:
    """A line per variant, a column per measure, the default as a line down; bars are one standard deviation."""
    measures = [name for name in MEASURES if (name, "mean") in table.columns]
    rows = np.arange(len(table))[::-1]
    with drawing(path, 2.1 + 2.1 * len(measures), 0.6 + 0.21 * len(table)) as figure:
        panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        for axes, measure, colour in zip(panels, measures, model_colours(measures).values(), strict=True):
            mean, spread = table[measure, "mean"].to_numpy(), table[measure, "std"].fillna(0).to_numpy()
            if DEFAULT in table.index and study.vary:
                middle, width = (table[measure, kind][DEFAULT] for kind in ("mean", "std"))
                axes.axvline(middle, color=QUIET, linewidth=0.9)
                axes.axvspan(middle - width, middle + width, color=GRID, linewidth=0)
            ends = _bounds(measure, mean - spread, mean + spread)
            low, high = _legible_range(mean, *ends)
            shown = (mean >= low) & (mean <= high)
            bars = np.abs(np.stack(ends) - mean)[:, shown]
            axes.errorbar(mean[shown], rows[shown], xerr=bars, fmt="o", color=colour, ms=4.5, elinewidth=1.2)
            for value, row in zip(mean[~shown], rows[~shown], strict=True):
                side, arrow = (0.0, "\u25c2 {:.0f}") if value < low else (1.0, "{:.0f} \u25b8")
                axes.text(
                    side, row, arrow.format(value), transform=axes.get_yaxis_transform(), color=colour, fontsize=8,
                    va="center", ha="right" if side else "left",
                )  # fmt: skip
            axes.set_xlim(low, high)
            axes.set_title(_title(measure), loc="left", color=QUIET)
            axes.xaxis.grid(True, color=GRID, linewidth=0.8)
            axes.set_axisbelow(True)
            bare(axes, keep="bottom")
        panels[0].set_yticks(rows, [str(name) for name in table.index], color=INK)
        panels[0].set_ylim(-0.8, len(table) - 0.2)
        figure.subplots_adjust(wspace=0.12)
        panels[0].text(
            0, len(table) + 2.4, study.description, transform=panels[0].get_yaxis_transform(), fontsize=10.5,
            fontweight="bold",
        )  # fmt: skip
        panels[0].text(
            0, len(table) + 1.4, _spread_words("bars", table), transform=panels[0].get_yaxis_transform(), fontsize=8,
            color=QUIET,
        )  # fmt: skip


def _spread_words(drawn: str, table: pd.DataFrame) -> str:
    """What bars or bands are, and of how many nets."""
    seeds = sorted({int(count) for count in table["seeds", "count"]})
    if seeds == [1]:
        return "one seed each"
    counts = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
    return f"means over {counts} seeds; {drawn} are one standard deviation, within what is possible"


def _bounds(measure: str, low: Any, high: Any) -> tuple[Any, Any]:
    """Ends of an interval without values that the measure cannot have: percent end at 100, angles at 180 degrees."""
    largest = 180 if _UNITS.get(measure) == "degrees" else np.inf if measure == "seconds" else 100
    return np.maximum(low, 0), np.minimum(high, largest)


def _legible_range(values: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> tuple[float, float]:
    """From the smallest to the largest value with their bars, without those so far off that all others would fall
    together."""
    first, last = np.nanquantile(values, [0.1, 0.9])
    reach = 2 * max(last - first, 1.0)
    near = (values >= first - reach) & (values <= last + reach)
    edge = 0.08 * max(values[near].max() - values[near].min(), 1.0)
    low, high = min(lower[near].min(), values[near].min() - edge), max(upper[near].max(), values[near].max() + edge)
    margin = 0.02 * (high - low)
    return float(low - margin), float(high + margin)
