"""The figure: points above AutoAttack against passes per image."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from advdpnp.base.plotting import GRID, INK, QUIET, drawing, spread_labels

_OURS = "#0072B2"


def draw(rows: pd.DataFrame, table: pd.DataFrame, path: Path) -> None:
    """A pale dot for each net and attack, a full one for the mean of each attack over its nets.

    Args:
        rows, table: of ``benchmarks.price.table``.
        path: of the PNG.
    """
    with drawing(path, 8.4, 4.4, most=90_000) as figure:
        axes = figure.add_subplot()
        axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
        axes.scatter(rows["passes"], rows["difference"], s=12, color=_OURS, alpha=0.25, linewidths=0, zorder=2)
        axes.scatter(table["passes"], table["difference"], s=42, color=_OURS, edgecolors="white", zorder=3)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlim(1, 2.2 * rows["passes"].max())
        low, high = min(0.0, rows["difference"].min()), rows["difference"].max()
        space = 0.065 * (high - low)
        axes.set_ylim(low - 3 * space, high + space)
        axes.set_xlabel("forwards and backwards per image (mean over all images)")
        axes.set_ylabel("points above AutoAttack")
        axes.grid(color=GRID, linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        style: dict[str, Any] = {"fontsize": 8, "color": INK, "fontweight": "bold", "va": "center"}
        high_up = table["difference"] >= 0.5
        for _, row in table[high_up].iterrows():
            axes.text(1.15 * row["passes"], row["difference"], row["attack"], **style)
        near = table[~high_up]  # their names stand side by side below the line
        places = spread_labels(list(np.log10(near["passes"])), 0.36, 0.2, 4.2)
        for place, (_, row) in zip(places, near.iterrows(), strict=True):
            leader = {"arrowstyle": "-", "color": QUIET, "linewidth": 0.6, "shrinkB": 4}
            point, name_at = (row["passes"], row["difference"]), (10**place, -2 * space)
            axes.annotate(row["attack"], point, xytext=name_at, ha="center", arrowprops=leader, **style)
        nets, images = rows["model"].nunique(), rows["n"].max()
        axes.set_title(
            f"{nets} nets, {images} CIFAR-10 images each; pale: one net, full: mean", loc="left", fontsize=8.5
        )
