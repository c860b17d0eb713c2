"""Accuracy against cost: which attacks no other beats in both."""

from pathlib import Path

import pandas as pd
from matplotlib.ticker import FuncFormatter

from advdpnp.base.plotting import GRID, INK, drawing, model_colours, spread_labels


def pareto(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that no other row beats: none is as cheap or cheaper with a lower accuracy. Sorted by cost."""
    ordered = rows.sort_values(["cost", "accuracy"])
    lowest = ordered["accuracy"].cummin()
    return ordered[ordered["accuracy"] < lowest.shift(fill_value=float("inf"))]


def draw(table: pd.DataFrame, path: Path) -> None:
    """One panel for each norm; a colour for each library; the names of attacks on the front."""
    table = table.dropna(subset=["accuracy"]).assign(cost=lambda rows: rows["forwards"] + rows["backwards"])
    norms = list(dict.fromkeys(table["norm"]))
    colours = model_colours(sorted(table["library"].unique()))
    with drawing(path, 11, 4.2 * ((len(norms) + 1) // 2), most=90_000) as figure:
        for number, norm in enumerate(norms):
            axes = figure.add_subplot((len(norms) + 1) // 2, 2, number + 1)
            rows = table[table["norm"] == norm]
            for library, points in rows.groupby("library"):
                axes.scatter(
                    points["cost"], points["accuracy"], s=26, color=colours[str(library)], label=str(library), zorder=3,
                    edgecolors="white", linewidths=0.5,
                )  # fmt: skip
            front = pareto(rows)
            rest = {"cost": 2 * table["cost"].max(), "accuracy": front["accuracy"].iloc[-1]}  # on to the right
            front_line = pd.concat([front, pd.DataFrame([rest])])
            axes.step(front_line["cost"], front_line["accuracy"], where="post", color=INK, linewidth=0.8, zorder=2)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axes.set_xlim(1, 2 * table["cost"].max())
            axes.set_ylim(rows["accuracy"].min() - 6, rows["accuracy"].max() + 4)
            axes.set_title(f"{norm.capitalize()} {rows['eps'].iloc[0]}", loc="left", fontweight="bold")
            axes.set_xlabel("forwards + backwards per image")
            axes.set_ylabel("accuracy (%)")
            axes.grid(color=GRID, linewidth=0.6)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            low, high = axes.get_ylim()
            gap = (high - low) * 0.045
            places = spread_labels(list(front["accuracy"] - gap), gap, low, high)  # below the front nothing is drawn
            for place, (_, row) in zip(places, front.iterrows(), strict=True):
                axes.text(
                    row["cost"] / 1.1, place, row["attack"], fontsize=7, color=colours[row["library"]], va="center",
                    ha="left" if row["cost"] < 20 else "right",
                )  # fmt: skip
        handles = {
            label: handle
            for axes in figure.axes
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=len(handles), frameon=False)
        figure.tight_layout(rect=(0, 0.04, 1, 1))
