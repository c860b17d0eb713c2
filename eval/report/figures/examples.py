"""A sheet of images: clean, adversarial, and their difference, with what the model says of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advdpnp.base.plotting import INK, QUIET, Look, drawing, saves_vectors, signed_colours
from advdpnp.eval.analysis.rows import Examples, Row
from advdpnp.eval.store.key import file_name

CELL = 1.05  # inches
FOOLED = "#C44601"
_FITS = 13  # characters of bold type at the normal size that a cell is wide enough for


def draw_examples(rows: Sequence[Row], looks: dict[str, Look], out: Path) -> list[Path]:
    """A sheet per row, of its most expensive attack with images: ``examples-<model>-digits-linf-0.1-cw.png``."""
    paths = []
    several = len({row.seed for row in rows if row.attacks}) > 1
    for row in rows:
        if row.examples is None:
            continue
        attack = row.examples.attack
        model = f"{file_name(row.model.name)}-{row.model.weights_hash[:8]}"
        threat = f"{row.threat.norm}-{file_name(row.threat.eps_text)}{f'-seed{row.seed}' if several else ''}"
        path = out / f"examples-{model}-{file_name(row.dataset)}-{threat}-{file_name(attack)}.png"
        if (
            saves_vectors()
            or not path.exists()
            or path.stat().st_mtime < row.attacks[attack].images_path.stat().st_mtime
        ):
            _draw(row, row.examples, path)
        paths.append(path)
    return paths


def _draw(row: Row, examples: Examples, path: Path) -> None:
    stored, difference = examples.images, examples.difference
    count = len(stored["sample"])
    with drawing(path, CELL * count, CELL * 3 + 0.75) as figure:
        axes = figure.subplots(3, count, squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.2})
        for column in range(count):
            label, before, after = (
                int(stored[name][column]) for name in ("label", "clean_prediction", "adversarial_prediction")
            )
            _image(axes[0, column], stored["x"][column])
            _image(axes[1, column], stored["x_adv"][column])
            _image(axes[2, column], signed_colours(examples.change[column], examples.largest).transpose(2, 0, 1))
            _title(axes[0, column], row, label, before)
            _title(axes[1, column], row, label, after)
            if not difference[column].any():
                why = "wrong\nunchanged" if before != label else "not\nbroken"
                axes[2, column].clear()
                _frame(axes[2, column])
                axes[2, column].set_facecolor("#f4f4f4")
                axes[2, column].set_box_aspect(stored["x"].shape[2] / stored["x"].shape[3])
                axes[2, column].text(
                    0.5,
                    0.5,
                    why,
                    transform=axes[2, column].transAxes,
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color=QUIET,
                )
        for axis, text in zip(axes[:, 0], ("clean", "adversarial", "difference"), strict=True):
            axis.set_ylabel(text, fontsize=9, labelpad=8)
        _heading(figure, axes[0, 0], row, examples.attack)
        _key(figure, axes[2, 0], examples.largest)


def _heading(figure: Figure, corner: Axes, row: Row, attack: str) -> None:
    height = figure.get_figheight()
    left, top = corner.get_position().x0, corner.get_position().y1
    figure.text(left, top + 0.44 / height, row.model.name, ha="left", va="bottom", fontsize=10.5, fontweight="bold")
    figure.text(
        left, top + 0.27 / height, f"{attack}, {row.threat.label}, {row.dataset}: label → prediction",
        ha="left", va="bottom", fontsize=8, color=QUIET,
    )  # fmt: skip


def _key(figure: Figure, corner: Axes, largest: float) -> None:
    """What the colours of the differences mean."""
    left, bottom = corner.get_position().x0, corner.get_position().y0
    figure.text(
        left, bottom - 0.12 / figure.get_figheight(),
        f"difference: mean of the channels, from blue (−{largest:.2g}) over white (0) to red (+{largest:.2g})",
        ha="left", va="top", fontsize=7.5, color=QUIET,
    )  # fmt: skip


def _image(axis: Axes, image: np.ndarray) -> None:
    """Show (c, h, w) in [0, 1]; one channel as gray, three as RGB, of any other number their mean."""
    _frame(axis)
    shown = image.transpose(1, 2, 0) if image.shape[0] == 3 else image.mean(0)
    axis.imshow(np.clip(shown, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def _frame(axis: Axes) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _title(axis: Axes, row: Row, label: int, prediction: int) -> None:
    right = label == prediction
    text = _short(row.class_name(label))
    text = text if right else f"{text} → {_short(row.class_name(prediction))}"
    size = 7.5 if len(text) <= _FITS else max(4.5, 7.5 * _FITS / len(text))
    axis.set_title(text, fontsize=size, pad=3, color=INK if right else FOOLED, fontweight="normal" if right else "bold")


def _short(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + "…"
