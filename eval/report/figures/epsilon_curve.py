"""Accuracy against eps per model; eps 0 is clean accuracy."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from advdpnp.base.plotting import GRID, QUIET, Look, bare, drawing, end_labels
from advdpnp.eval.analysis.curves import CommonWorstCase, EpsilonCurve, eps_labels, epsilon_curves
from advdpnp.eval.analysis.rows import Row
from advdpnp.eval.store.key import file_name


def draw_accuracy_against_eps(rows: Sequence[Row], looks: dict[str, Look], out: Path) -> list[Path]:
    """One figure per data set, norm and seed: ``accuracy-against-eps-digits-linf.png``."""
    groups: dict[tuple[str, str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        if row.attacks and row.n:
            groups[row.dataset, row.data, row.threat.norm, row.seed or 0].append(row)
    paths = []
    for (dataset, data, norm, seed), group in sorted(groups.items()):
        data_suffix = f"-{data[:8]}" if len({key[1] for key in groups if key[0] == dataset}) > 1 else ""
        seed_suffix = f"-seed{seed}" if len({key[3] for key in groups}) > 1 else ""
        path = out / f"accuracy-against-eps-{file_name(dataset)}{data_suffix}-{norm}{seed_suffix}.png"
        _draw(group, looks, path)
        paths.append(path)
    return paths


def _draw(rows: list[Row], looks: dict[str, Look], path: Path) -> None:
    # The same attacks at every point, or the curve would show which attacks ran rather than what the model is worth.
    worst_case = CommonWorstCase.of(rows)
    labels = eps_labels(rows)
    largest = max(labels)
    with drawing(path, 6.2, 3.8) as figure:
        axes = figure.subplots()
        ends = {
            curve.row.model.name: _draw_curve(axes, curve, looks[curve.row.model.name])
            for curve in epsilon_curves(rows, worst_case)
        }
        axes.set_xlim(0, largest)
        axes.set_ylim(0, 100)
        ticks = _legible([0, *labels], largest)
        axes.set_xticks(ticks, ["clean" if eps == 0 else labels[eps] for eps in ticks])
        axes.set_yticks(range(0, 101, 20))
        axes.tick_params(axis="x", pad=6)
        axes.yaxis.grid(True, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        bare(axes, keep="bottom")
        end_labels(axes, ends, {name: look.hex for name, look in looks.items()}, 5.2)
        axes.set_xlabel(f"eps ({rows[0].threat.norm})", labelpad=6)
        sizes = sorted({row.n for row in rows})
        n = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
        axes.set_title(
            f"Accuracy in percent against eps, {rows[0].dataset}", loc="left", pad=24, fontsize=10.5, fontweight="bold"
        )
        axes.text(
            0,
            1.035,
            f"worst case over {worst_case.label}; {n} test images, 95 % intervals",
            transform=axes.transAxes,
            color=QUIET,
            fontsize=8,
        )


def _legible(ticks: list[float], largest: float) -> list[float]:
    """The ticks whose labels do not run into those left of them; the last is kept in any case."""
    kept = ticks[:1]
    for tick in ticks[1:-1]:
        if tick - kept[-1] >= 0.075 * largest and largest - tick >= 0.075 * largest:
            kept.append(tick)
    return kept + ticks[-1:]


def _draw_curve(axes: Axes, curve: EpsilonCurve, look: Look) -> tuple[float, float]:
    """Draw one model; returns its last point. Two points are no curve: they get error bars and no line."""
    eps, colour = [eps for eps, _ in curve.points], look.hex
    values, low, high = np.array([accuracy for _, accuracy in curve.points]).T
    joined = len(eps) > 2
    if joined:
        axes.fill_between(eps, low, high, color=colour, alpha=0.13, linewidth=0)
    else:
        axes.vlines(eps, low, high, color=colour, alpha=0.5, linewidth=1.4, clip_on=False)
    axes.plot(
        eps, values, f"-{look.marker}" if joined else look.marker, color=colour, linewidth=1.8, markersize=4.5,
        markeredgecolor="white", markeredgewidth=0.6, clip_on=False, zorder=3,
    )  # fmt: skip
    return eps[-1], float(values[-1])
