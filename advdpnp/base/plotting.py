"""Shared parts of all figures: colours, fonts, axes and files. pyplot and its global state are not used."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from advdpnp.base.files import atomic_path

DPI = 200
INK = "#222222"
QUIET = "#767676"
GRID = "#e4e4e4"

# The palette of Okabe and Ito, which is safe for all common forms of colour blindness, without its yellow (too pale for
# thin lines on white), followed by darker shades of the same hues.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555",
            "#004466", "#803800", "#005C44", "#7A4864")  # fmt: skip
COLOURS = len(_PALETTE)
_METHODS = ("adv-dpnp", "pgd-at", "trades", "mart", "fgsm-rs", "dpnp", "ce", "ed-wta", "center", "dpp")
"""Training methods in the order of the palette: each has its colour wherever it is drawn."""

_vectors: ContextVar[bool] = ContextVar("vectors", default=False)
_SETTINGS: dict[Any, Any] = {
    "pdf.fonttype": 42,  # letters stay letters, as journals want it
    "svg.hashsalt": "advdpnp",
    "font.family": "DejaVu Sans",
    "text.parse_math": False,  # a $ in a name is a dollar
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#b0b0b0",
    "axes.linewidth": 0.8,
    "axes.titlesize": 9,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


def model_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each model name, in the given order; colours repeat after 11 models."""
    return {name: _PALETTE[index % len(_PALETTE)] for index, name in enumerate(names)}


class Look(NamedTuple):
    """How a model is drawn: the places of its colour and its mark, 0 and up."""

    colour: int
    mark: int

    @property
    def hex(self) -> str:
        """The colour."""
        return _PALETTE[self.colour]

    @property
    def marker(self) -> str:
        """The mark, as matplotlib calls it: circle, square, triangle or diamond."""
        return "os^D"[self.mark % 4]


def looks(methods: Mapping[str, str]) -> dict[str, Look]:
    """How models are drawn: in the colour of their method, and models of one colour with marks of their own.

    Nets of no method of ours get the colours that are left, in the order of their names.

    Args:
        methods: by name of the model, "" where it has none.
    """
    known = {method: place for place, method in enumerate(_METHODS)}
    taken = {known[method] for method in methods.values() if method in known}
    left = itertools.cycle([place for place in range(COLOURS) if place not in taken])
    drawn: Counter[int] = Counter()
    found = {}
    for name in sorted(methods):
        key = methods[name] or name  # a method of somebody else has one colour too
        colour = known[key] if key in known else known.setdefault(key, next(left))
        found[name] = Look(colour, drawn[colour])
        drawn[colour] += 1
    return found


@contextmanager
def also_vectors(wanted: bool = True) -> Iterator[None]:
    """Every figure that is drawn inside is saved as PDF and SVG too, beside the PNG."""
    token = _vectors.set(wanted)
    try:
        yield
    finally:
        _vectors.reset(token)


def saves_vectors() -> bool:
    """Whether ``also_vectors`` holds."""
    return _vectors.get()


@contextmanager
def drawing(path: Path, width: float, height: float, *, most: int | None = None, crop: bool = True) -> Iterator[Figure]:
    """A figure of this size in inches, saved to ``path`` as a PNG at the end of the block.

    Args:
        most: bytes; a larger file is reduced to 256 colours, which halves a sheet of many images.
        crop: cut off empty margins, which takes as long as drawing does.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), facecolor="white")
        canvas = FigureCanvasAgg(figure)
        yield figure
        with atomic_path(path) as temporary:
            # Without matplotlib's name and version in the file, the same verdicts give the same bytes.
            cut: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.12} if crop else {}
            canvas.print_figure(temporary, format="png", dpi=DPI, metadata={"Software": None}, **cut)
            for kind, dated in (("pdf", "CreationDate"), ("svg", "Date")):
                other = path.with_suffix(f".{kind}")
                if saves_vectors() or other.exists():  # one of an earlier call would show older numbers
                    with atomic_path(other) as drawn_anew:
                        canvas.print_figure(drawn_anew, format=kind, metadata={dated: None}, **cut)
            if most is not None and temporary.stat().st_size > most:
                with Image.open(temporary) as drawn:
                    few = drawn.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
                few.save(temporary, "PNG", optimize=True)


def bare(axes: Axes, *, keep: str = "") -> None:
    """Remove tick marks and all sides of the frame except those named in ``keep`` ("left bottom")."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in keep.split())
    axes.tick_params(length=0)


def heat_cells(axes: Axes, values: np.ndarray, names: Sequence[str]) -> None:
    """Draw percentages (rows, columns) as an annotated heat map; NaN cells stay blank."""
    # The colour scale is the same for every model: 0 to 100.
    axes.imshow(values, cmap="Blues", vmin=0, vmax=110, aspect="auto")
    for row, column in np.ndindex(*values.shape):
        value = values[row, column]
        if not np.isnan(value):
            ink = "white" if value > 60 else INK
            axes.text(column, row, f"{value:.1f}", ha="center", va="center_baseline", fontsize=7.5, color=ink)
    axes.set_xticks(range(len(names)), names)
    for column in range(1, values.shape[1]):
        axes.axvline(column - 0.5, color="white", linewidth=1.5)
    for row in range(1, values.shape[0]):
        axes.axhline(row - 0.5, color="white", linewidth=1.5)
    bare(axes)


def end_labels(axes: Axes, ends: Mapping[str, tuple[float, float]], colours: Mapping[str, str], gap: float) -> None:
    """Write names and values to the right of lines, at least ``gap`` (in data units) apart within the y limits.

    A thin line leads from the end of a line to a name that had to move away from it.

    Args:
        axes: with their final limits.
        ends: last point of each line, by name.
        colours: by name.
        gap: smallest distance between two names.
    """
    low, high = sorted(axes.get_ylim())
    inside = 0.2 * gap
    places = spread_labels([y for _, y in ends.values()], gap, low + inside, high - inside)
    for (name, end), place in zip(ends.items(), places, strict=True):
        leader = {"arrowstyle": "-", "color": colours[name], "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4}
        axes.annotate(
            f"{name}  {end[1]:.1f}", end, xytext=(1.055, place), textcoords=axes.get_yaxis_transform(), va="center",
            color=colours[name], fontsize=8.5, fontweight="bold", annotation_clip=False,
            arrowprops={**leader, "relpos": (0, 0.5)} if abs(place - end[1]) > 0.3 * gap else None,
        )  # fmt: skip


def signed_colours(values: np.ndarray, largest: float) -> np.ndarray:
    """Numbers (h, w) as colours (h, w, 3) in [0, 1]: white at 0, red above, blue below, full at ``largest``."""
    shares = 0.5 + 0.5 * np.clip(values / (largest or 1.0), -1, 1)
    return np.asarray(matplotlib.colormaps["RdBu_r"](shares)[..., :3])


def spread_labels(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near ``values``, in the same order, at least ``gap`` apart and within [low, high] if they fit.

    Values that are too close form a block around their mean; blocks that then overlap are merged.
    """
    order = np.argsort(np.asarray(values), kind="stable")
    blocks: list[list[int]] = []
    centres: list[float] = []
    for index in order.tolist():
        blocks.append([index])
        centres.append(min(max(float(values[index]), low), high))
        while len(blocks) > 1 and centres[-1] - centres[-2] < gap * (len(blocks[-1]) + len(blocks[-2])) / 2:
            joined = blocks.pop(-2) + blocks.pop(-1)
            half = gap * (len(joined) - 1) / 2
            centre = float(np.mean([values[i] for i in joined]))
            centres[-2:] = [min(max(centre, low + half), max(high - half, low + half))]
            blocks.append(joined)
    positions = [0.0] * len(values)
    for block, centre in zip(blocks, centres, strict=True):
        for rank, index in enumerate(block):
            positions[index] = centre + gap * (rank - (len(block) - 1) / 2)
    return positions


def spread_boxes(centres: np.ndarray, sizes: np.ndarray, *, rounds: int = 500) -> np.ndarray:
    """Centres (n, 2) of boxes of these sizes (n, 2), moved as little as it takes for no two to overlap.

    Every round pushes each overlapping pair apart, half each, along the axis that takes the shorter way. Boxes that are
    still in each other's way after so many rounds stay there.
    """
    moved = np.array(centres, dtype=float)
    needed = (sizes[:, None] + sizes[None]) / 2
    order = np.arange(len(moved))
    side = np.sign(order[:, None] - order[None])[:, :, None]  # decides where two centres are one
    for _ in range(rounds):
        apart = moved[:, None] - moved[None]
        overlap = needed - np.abs(apart)
        meets = (overlap > 1e-9).all(2) & (side[:, :, 0] != 0)
        if not meets.any():
            break
        shorter = overlap == overlap.min(2, keepdims=True)
        push = np.where(apart == 0, side, np.sign(apart)) * (overlap + 1e-6) / 2 * shorter * meets[:, :, None]
        moved += push.sum(1)
    return moved
