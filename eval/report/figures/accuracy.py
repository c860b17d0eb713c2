"""Accuracy per attack and model: a panel per attack, a line per model, with 95 % intervals."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from advdpnp.base.plotting import GRID, INK, QUIET, Look, bare, drawing
from advdpnp.eval.analysis.curves import direct_attacks, estimate
from advdpnp.eval.analysis.rows import Row
from advdpnp.eval.store.key import file_name

PANEL = 1.55  # inches
LINE = 0.34


def draw_accuracy(rows: Sequence[Row], looks: dict[str, Look], out: Path) -> list[Path]:
    """One figure per data set, threat model and seed: ``accuracy-digits-linf-0.1.png``."""
    paths = []
    for group in grouped(rows):
        paths.append(out / f"accuracy-{suffix(group[0], rows)}.png")
        _draw(group, looks, paths[-1])
    return paths


def grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows with attacks, those of one data set, threat model and seed together."""

    def key(row: Row) -> tuple[str, str, str, float, int]:
        return row.dataset, row.data, row.threat.norm, row.threat.eps, row.seed or 0

    return [list(group) for _, group in groupby(sorted((row for row in rows if row.attacks), key=key), key)]


def suffix(row: Row, rows: Sequence[Row]) -> str:
    """What tells the figure of a group, of which ``row`` is one, from those of the other groups in ``rows``."""
    several_data = len({other.data for other in rows if other.dataset == row.dataset}) > 1
    several_seeds = len({other.seed for other in rows if other.attacks}) > 1
    data, seed = (f"-{row.data[:8]}" if several_data else ""), (f"-seed{row.seed or 0}" if several_seeds else "")
    return f"{file_name(row.dataset)}{data}-{row.threat.norm}-{file_name(row.threat.eps_text)}{seed}"


def _draw(rows: list[Row], looks: dict[str, Look], path: Path) -> None:
    rows = sorted(
        rows,
        key=lambda row: (
            -(~row.misclassified_under_any).mean() if row.n else 0,
            row.clean_wrong.mean(),
            row.model.name,
        ),
    )
    # Images of other models have a figure of their own.
    attacks = direct_attacks(rows)
    panels = ["clean", *attacks, *(["worst case"] if len(attacks) > 1 else [])]
    with drawing(path, PANEL * len(panels), LINE * len(rows) + 0.8) as figure:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False, gridspec_kw={"wspace": 0.16})[0]
        for axis, panel in zip(axes, panels, strict=True):
            _draw_panel(axis, panel, rows, looks)
        axes[0].set_yticks(range(len(rows)), [row.model.name for row in rows])
        axes[0].tick_params(axis="y", pad=6)
        axes[0].set_ylim(len(rows) - 0.4, -0.6)
        sizes = sorted({row.n for row in rows})
        n = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
        box, height = axes[0].get_position(), figure.get_figheight()
        figure.text(
            box.x0, box.y1 + 0.36 / height, f"Accuracy in percent, {rows[0].dataset}, {rows[0].threat.label}",
            ha="left", va="bottom", fontsize=10.5, fontweight="bold",
        )  # fmt: skip
        figure.text(
            box.x0, box.y0 - 0.3 / height, f"{n} test images; dark lines are 95 % Wilson intervals",
            ha="left", va="top", color=QUIET, fontsize=7.5,
        )  # fmt: skip


def _draw_panel(axis: Axes, panel: str, rows: list[Row], looks: dict[str, Look]) -> None:
    strong = panel == "worst case"
    axis.set_title(panel, loc="left", pad=5, fontweight="bold" if strong else "normal")
    axis.set_xlim(-3, 126)
    axis.set_xticks([0, 50, 100])
    axis.tick_params(axis="x", labelsize=7, labelcolor=QUIET)
    axis.set_axisbelow(True)
    bare(axis)
    for position in (0, 50, 100):
        axis.axvline(position, color=GRID, linewidth=0.8, zorder=0)
    for place, row in enumerate(rows):
        wrong = _wrong(row, panel)
        if wrong is None or not len(wrong):
            axis.text(2, place, "not run", va="center", fontsize=7.5, color=QUIET)
            continue
        value, low, high = estimate(wrong)
        colour = looks[row.model.name].hex
        axis.barh(place, value, height=0.56, color=colour, alpha=1.0 if strong else 0.62, linewidth=0)
        axis.plot([low, high], [place, place], color=INK, linewidth=1.1, solid_capstyle="butt")
        axis.text(
            high + 4, place, f"{value:.1f}", va="center_baseline", fontsize=8, color=INK,
            fontweight="bold" if strong else "normal", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip


def _wrong(row: Row, panel: str) -> np.ndarray | None:
    if panel == "clean":
        return row.clean_wrong
    if panel == "worst case":
        return row.misclassified_under_any
    return row.misclassified_under(panel) if panel in row.attacks else None
