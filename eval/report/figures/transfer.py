"""All models against all: accuracy of each under the adversarial images made for the others."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from advdpnp.attacks.algorithms.transfer import PREFIX
from advdpnp.base.plotting import QUIET, Look, drawing, heat_cells
from advdpnp.eval.analysis.curves import (
    accuracy_under,
    clean_accuracy,
    direct_attacks,
    transfer_sources,
    transferred_images,
    widest,
)
from advdpnp.eval.analysis.rows import Row
from advdpnp.eval.report.figures.accuracy import grouped, suffix

_CELL = 0.62  # inches


def draw_transfer(rows: Sequence[Row], looks: dict[str, Look], out: Path) -> list[Path]:
    """One matrix per data set, threat model and seed where there is any: ``transfer-digits-linf-0.1.png``."""
    paths = []
    for group in grouped(rows):
        if transfer_sources(group):
            path = out / f"transfer-{suffix(group[0], rows)}.png"
            _draw(group, path)
            paths.append(path)
    return paths


def _draw(rows: list[Row], path: Path) -> None:
    rows = sorted(rows, key=lambda row: row.model.name)
    sources = sorted(transfer_sources(rows))
    under = [[accuracy_under(row, [source]) for source in sources] for row in rows]
    reference = [[clean_accuracy(row), accuracy_under(row, direct_attacks([row]))] for row in rows]
    with drawing(path, _CELL * (len(sources) + 2) + 1.2, 0.32 * len(rows) + 1.2) as figure:
        widths = [len(sources), 2]
        axes = figure.subplots(1, 2, gridspec_kw={"width_ratios": widths, "wspace": 0.06}, squeeze=False)[0]
        heat_cells(axes[0], np.array(under), [label.removeprefix(PREFIX) for label in sources])
        heat_cells(axes[1], np.array(reference), ["clean", "own attacks"])
        for axis in axes:
            axis.tick_params(axis="x", labelrotation=35)
            for label in axis.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        axes[0].set_yticks(range(len(rows)), [row.model.name for row in rows])
        axes[1].set_yticks([])
        axes[0].set_xlabel("net that the images were made for", labelpad=4)
        axes[0].set_ylabel("net that judges them", labelpad=6)
        axes[0].set_title(
            f"Accuracy in percent, {rows[0].dataset}, {rows[0].threat.label}",
            loc="left", pad=20, fontsize=10.5, fontweight="bold",
        )  # fmt: skip
        axes[0].annotate(
            f"{transferred_images(rows)}; {rows[0].n:,} test images, 95 % intervals up to ± {widest(rows[0].n):.1f}; "
            "a blank was not tried", (0, 1), xytext=(0, 5),
            xycoords="axes fraction", textcoords="offset points", color=QUIET, fontsize=7.5,
        )  # fmt: skip
