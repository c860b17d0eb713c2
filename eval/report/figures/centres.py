"""A picture of how near centres and prototypes lie to the images, in feature space."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from advdpnp.base.plotting import GRID, INK, QUIET, bare, drawing
from advdpnp.eval.diagnostics.centres import Centres

_OWN, _OTHER = "#0072B2", "#D55E00"
_LOW = 1e-3  # of the median distance between images: nearer points are drawn there


def draw_centres(name: str, centres: Sequence[Centres], path: Path) -> Path:
    """One line per kind of point, one mark per point: its distance to the nearest image, in units of how
    near the images lie to each other."""
    shown = [each for each in centres if not each.missing]
    usual = float(np.median(shown[0].nearest)) or 1.0  # zero where most images are there twice
    with drawing(path, 7.4, 0.9 + 0.5 * len(centres)) as figure:
        axes = figure.subplots()
        axes.axvline(1, color=QUIET, linewidth=0.9, zorder=1)
        for row, each in enumerate(centres):
            if each.missing:
                axes.text(1, row, "  none gives these labels", va="center", fontsize=8, color=QUIET)
                continue
            places = np.maximum(each.nearest.numpy() / usual, _LOW)
            # Marks are spread over the height of their line, by a fixed rule, so that they can be told apart.
            heights = row + 0.26 * (np.modf(np.arange(len(places)) * 0.618)[0] - 0.5) * 2
            small = len(places) > 200
            colours = np.where(each.is_own.numpy(), _OWN, _OTHER)
            axes.scatter(
                places, heights, s=5 if small else 26, c=colours, alpha=0.35 if small else 0.85,
                linewidths=0 if small else 0.6, edgecolors="white", zorder=3,
            )  # fmt: skip
            axes.text(
                1.02, row, f"median {np.median(places):.3g}, own {100 * each.is_own.double().mean():.0f} %",
                transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=INK,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(len(centres) - 0.4, -0.6)
        axes.set_yticks(range(len(centres)), [each.kind for each in centres])
        axes.xaxis.grid(True, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        bare(axes, keep="bottom")
        axes.set_xlabel(
            "distance to the nearest image, in feature space; 1 is the median of the images themselves", fontsize=8.5
        )
        for place, colour, text in (
            (0.0, _OWN, "● the nearest image is of the own class"),
            (0.42, _OTHER, "● of another"),
        ):
            axes.text(place, 1.02, text, transform=axes.transAxes, fontsize=8, color=colour, va="bottom")
        axes.set_title(f"{name}: prototypes and centres beside the images", loc="left", fontweight="bold", pad=18)
    return path
