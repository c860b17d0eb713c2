"""Pictures of prototypes: as images where the input is pixels, and by the training images nearest to them."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from advdpnp.base.plotting import INK, QUIET, bare, drawing
from advdpnp.datasets.base import to_float
from advdpnp.eval.diagnostics.prototypes import Nearest, PrototypeReport

_CELL = 0.3  # inches
_LARGEST = 250_000  # bytes
_CLASSES = 20  # more are not drawn
_COLUMNS = 8
_OTHER = "#D55E00"
_NAMES = {"w-": "w−", "prototype": "the prototype"}
_DIVERGING = "RdBu_r"


def draw_prototypes(name: str, report: PrototypeReport, classes: Sequence[str], path: Path) -> Path:
    """One row per class, one column per sub-class (those that win most images first) or nearest training image."""
    rows = min(len(classes), _CLASSES)
    order = report.won.argsort(dim=1, descending=True, stable=True)[:rows, :_COLUMNS]
    panels: list[tuple[str, np.ndarray, Nearest | None]] = []
    largest = 0.0
    if report.pictures:
        pair = [_pick(report.pictures[kind], order) for kind in ("w+", "w-")]
        difference = (pair[0] - pair[1]).mean(2)
        largest = float(np.abs(difference).max()) or 1.0
        panels += [(kind, _rgb(values), None) for kind, values in zip(("w+", "w−"), pair, strict=True)]
        coloured = matplotlib.colormaps[_DIVERGING](0.5 + 0.5 * difference / largest)[..., :3]
        panels.append(("w+ − w−", coloured, None))
    kinds = ["w+"] if report.pictures else list(report.nearest)
    for kind in kinds:
        found = report.nearest[kind]
        chosen = order if found.index.shape == report.won.shape else None
        found = Nearest(*(_columns(each[:rows], chosen) for each in (found.index, found.labels, found.distances)))
        images = to_float(report.images.images[found.index.flatten()].cpu())
        shape = (*found.index.shape, *images.shape[1:])
        title = f"training images nearest to {_NAMES.get(kind, kind)}"
        panels.append((title, _rgb(images.reshape(shape).numpy()), found))
    _draw(name, panels, classes[:rows], largest, path)
    return path


def _columns(values: Tensor, order: Tensor | None) -> Tensor:
    return values if order is None else values.gather(1, order)


def _pick(images: Tensor, order: Tensor) -> np.ndarray:
    """Images (classes, subclasses, c, h, w) in this order of sub-classes."""
    chosen: np.ndarray = np.take_along_axis(images[: len(order)].numpy(), order.numpy()[:, :, None, None, None], axis=1)
    return chosen


def _rgb(images: np.ndarray) -> np.ndarray:
    """Images (rows, columns, c, h, w) as (rows, columns, h, w, 3) in [0, 1]; other channels than three as gray."""
    planes = images if images.shape[2] == 3 else np.repeat(images.mean(2, keepdims=True), 3, axis=2)
    shown: np.ndarray = np.clip(np.moveaxis(planes, 2, -1), 0, 1)
    return shown


def _draw(
    name: str,
    panels: Sequence[tuple[str, np.ndarray, Nearest | None]],
    classes: Sequence[str],
    largest: float,
    path: Path,
) -> None:
    widths = [cells.shape[1] for _, cells, _ in panels]
    height, width = _CELL * len(classes), _CELL * (sum(widths) + 0.7 * (len(widths) - 1))
    with drawing(path, width, height, most=_LARGEST) as figure:
        spaces = {"left": 0, "right": 1, "bottom": 0, "top": 1, "wspace": 0.7 / np.mean(widths)}
        axes = figure.subplots(1, len(panels), squeeze=False, gridspec_kw={"width_ratios": widths, **spaces})[0]
        for axis, (title, cells, found) in zip(axes, panels, strict=True):
            _mosaic(axis, cells)
            axis.set_title(title, loc="left", fontsize=8.5, color=QUIET, pad=4)
            if found is not None and "−" not in title:
                _frame_others(axis, cells, found)
            if title == "w+ − w−":
                _scale(figure, axis, largest)
        rows, cell = len(classes), panels[0][1].shape[2]
        axes[0].set_yticks([(row + 0.5) * (cell + 1) - 1 for row in range(rows)], list(classes))
        axes[0].tick_params(axis="y", labelsize=8, pad=2)
        figure.text(
            0, 1 + 0.46 / height, f"{name}: prototypes", ha="left", va="bottom", fontsize=10.5, fontweight="bold",
            color=INK,
        )  # fmt: skip
        figure.text(0, 1 + 0.28 / height, _caption(panels), ha="left", va="bottom", fontsize=7.5, color=QUIET)


def _caption(panels: Sequence[tuple[str, np.ndarray, Nearest | None]]) -> str:
    columns = "the nearest first" if panels[0][0].endswith("prototype") else "sub-classes that win most images first"
    return f"one class per row, {columns}; a frame marks an image of another class"


def _mosaic(axis: Axes, cells: np.ndarray) -> None:
    """Cells (rows, columns, h, w, 3) with a white line of one pixel between them."""
    rows, columns, height, width, _ = cells.shape
    sheet = np.ones((rows, columns, height + 1, width + 1, 3))
    sheet[:, :, :height, :width] = cells
    sheet = sheet.transpose(0, 2, 1, 3, 4).reshape(rows * (height + 1), columns * (width + 1), 3)
    axis.imshow(sheet[:-1, :-1], interpolation="nearest", aspect="auto")
    bare(axis)
    axis.set_xticks([])
    axis.set_yticks([])


def _frame_others(axis: Axes, cells: np.ndarray, found: Nearest) -> None:
    """A frame around images of another class than their prototype."""
    height, width = cells.shape[2:4]
    for (row, column), label in np.ndenumerate(found.labels.numpy()):
        if label != row:
            corner = (column * (width + 1) - 0.5, row * (height + 1) - 0.5)
            axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=_OTHER, linewidth=1.4))


def _scale(figure: Figure, axis: Axes, largest: float) -> None:
    """A small colour bar below the panel of differences."""
    place = axis.inset_axes((0.0, -0.075, 1.0, 0.022))
    place.imshow(np.linspace(0, 1, 256)[None], cmap=_DIVERGING, aspect="auto")
    bare(place)
    place.set_yticks([])
    place.set_xticks([0, 127.5, 255], [f"−{largest:.2g}", "0", f"{largest:.2g}"], fontsize=7)
