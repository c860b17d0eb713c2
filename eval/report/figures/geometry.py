"""Pictures of a classifier's geometry: angles between classes, features in the plane, angles of features."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from advdpnp.base.plotting import GRID, INK, QUIET, bare, drawing, spread_boxes
from advdpnp.eval.diagnostics.geometry import Features, angle_matrix, angles_to, distances_to, project

# Ten hues that can be told apart; more classes repeat them.
_HUES = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
_NAMED = 20  # more classes than that get no labels
_LEAST_SPAN = 10.0  # degrees from the darkest to the lightest angle: less would show contrast where there is none


def draw_geometry(
    name: str,
    features: Sequence[Features],
    vectors: Tensor,
    classes: Sequence[str],
    out: Path,
    prototypes: Tensor | None = None,
) -> list[Path]:
    """All pictures of one network, as ``geometry-*.png`` in ``out``.

    Args:
        vectors: (classes, dim), float64; features are compared with their directions.
        prototypes: (classes, subclasses, dim), float64, of a head that compares features with their places instead.
    """
    paths = [out / f"geometry-{kind}.png" for kind in ("angles", "pca", "t-sne", "histogram")]
    _angles(name, vectors, classes, paths[0])
    for how, path in zip(("pca", "t-sne"), paths[1:3], strict=True):
        _embedding(name, list(features), vectors, prototypes, classes, how, path)
    _histogram(name, features, vectors, prototypes, paths[3])
    return paths


def _angles(name: str, vectors: Tensor, classes: Sequence[str], path: Path) -> None:
    angles = angle_matrix(vectors).numpy()
    count = len(angles)
    shown = np.where(np.eye(count, dtype=bool), np.nan, angles)
    with drawing(path, 5.4, 4.6) as figure:
        axes = figure.subplots()
        low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
        middle, half = (low + high) / 2, max(high - low, _LEAST_SPAN) / 2
        image = axes.imshow(shown, cmap="cividis", vmin=middle - half, vmax=middle + half)
        bare(axes)
        if count <= _NAMED:
            axes.set_xticks(range(count), list(classes), rotation=45, ha="right")
            axes.set_yticks(range(count), list(classes))
            for (row, column), value in np.ndenumerate(shown):
                if np.isfinite(value):
                    ink = INK if value > middle - half / 5 else "white"
                    axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=ink)
        else:
            axes.set_xticks([])
            axes.set_yticks([])
        bar = figure.colorbar(image, ax=axes, shrink=0.85, pad=0.03)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.set_label("degrees", fontsize=8, color=QUIET)
        axes.set_title(f"{name}: angles between classes, MinSep {low:.1f}°", loc="left", fontweight="bold", pad=10)


def _embedding(
    name: str,
    features: list[Features],
    vectors: Tensor,
    prototypes: Tensor | None,
    classes: Sequence[str],
    how: str,
    path: Path,
) -> None:
    points = vectors if prototypes is None else prototypes.flatten(0, 1)
    flat = project(features, points, how, scaled=prototypes is None)
    marks, stars = flat[:-1], flat[-1].reshape(len(vectors), -1, 2)
    with drawing(path, 4.4 * len(features), 4.4) as figure:
        panels = figure.subplots(1, len(features), squeeze=False, sharex=True, sharey=True)[0]
        named: list[list[np.ndarray]] = []  # of each panel the star of each class that carries its name
        for axes, part, places in zip(panels, features, marks, strict=True):
            named.append([])
            for label, own in enumerate(stars):
                members, hue = part.labels.numpy() == label, _HUES[label % len(_HUES)]
                axes.scatter(*places[members].T, s=7, color=hue, alpha=0.55, linewidths=0)
                axes.scatter(*own.T, s=70, marker="*", color=hue, edgecolors="white", linewidths=0.7, zorder=4)
                middle = places[members].mean(0) if members.any() else own[0]
                named[-1].append(own[((own - middle) ** 2).sum(1).argmin()])
            bare(axes)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"{part.kind} images", loc="left", fontsize=8.5, color=QUIET)
        if len(stars) <= _NAMED:
            for axes, chosen in zip(panels, named, strict=True):  # now that the axes they share are settled
                _name_points(axes, np.array(chosen), classes)
        starred = "class vectors" if prototypes is None else "positive prototypes"
        figure.suptitle(
            f"{name}: features by {how.upper() if how == 'pca' else how}, {starred} as stars",
            x=0.125, ha="left", fontsize=10, fontweight="bold",
        )  # fmt: skip


def _name_points(axes: Axes, points: np.ndarray, names: Sequence[str]) -> None:
    """Write the names above points (n, 2), moved apart where they would overlap, with a line to their point."""
    axes.autoscale_view()
    scale = axes.figure.dpi / 72  # pixels of a typographic point
    drawn = [
        axes.annotate(
            name, point, xytext=(0, 0), textcoords="offset points", fontsize=7.5, fontweight="bold", color=INK,
            ha="center", va="center", zorder=5,
            bbox={"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.75},
            arrowprops={"arrowstyle": "-", "color": QUIET, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
        )
        for name, point in zip(names, points, strict=True)
    ]  # fmt: skip
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    sizes = np.array([[box.width, box.height] for box in (text.get_window_extent(renderer) for text in drawn)])
    at = axes.transData.transform(points)
    offsets = (spread_boxes(at + np.array([0, 11 * scale]), sizes + 2 * scale) - at) / scale
    for text, offset in zip(drawn, offsets, strict=True):
        text.set_position(tuple(offset))


def _histogram(name: str, features: Sequence[Features], vectors: Tensor, prototypes: Tensor | None, path: Path) -> None:
    if prototypes is None:
        every = [angles_to(part.values, vectors) for part in features]
        bins, what, unit = np.linspace(0, 180, 61), "angles", "angle between feature and class vector, degrees"
    else:
        every = [distances_to(part.values, prototypes) for part in features]
        bins = np.linspace(0, max(float(values.max()) for values in every), 61)
        what, unit = "distances", "distance between feature and the nearest positive prototype of a class"
    with drawing(path, 6.2, 1.9 * len(features) + 0.6) as figure:
        panels = figure.subplots(len(features), 1, squeeze=False, sharex=True)[:, 0]
        for axes, part, measured in zip(panels, features, every, strict=True):
            own = torch.nn.functional.one_hot(part.labels, len(vectors)).bool()
            rival = measured.masked_fill(own, torch.inf).amin(1).numpy()
            for values, colour, text in (
                (measured[own].numpy(), "#0072B2", "to the own class"), (rival, "#D55E00", "to the nearest rival"),
            ):  # fmt: skip
                axes.hist(values, bins=bins.tolist(), color=colour, alpha=0.6, label=text)
            axes.set_title(f"{part.kind} images", loc="left", fontsize=8.5, color=QUIET)
            axes.set_xlim(bins[0], bins[-1])
            if prototypes is None:
                axes.set_xticks(range(0, 181, 30))
            axes.set_yticks([])
            axes.xaxis.grid(True, color=GRID, linewidth=0.8)
            axes.set_axisbelow(True)
            bare(axes, keep="bottom")
        panels[0].legend(frameon=False, fontsize=8)
        panels[-1].set_xlabel(unit, fontsize=8.5)
        figure.suptitle(f"{name}: {what} of features", x=0.125, ha="left", fontsize=10, fontweight="bold")
