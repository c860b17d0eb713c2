"""Accuracy on corrupted images: type by severity per model, and against severity for all models."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MultipleLocator

from advdpnp.base.plotting import GRID, QUIET, Look, bare, drawing, end_labels, heat_cells
from advdpnp.eval.analysis.curves import CorruptionGrid, clean_accuracy, corruption_grids, shared_types, widest
from advdpnp.eval.analysis.rows import Row
from advdpnp.eval.store.key import file_name


def draw_corruptions(rows: Sequence[Row], looks: dict[str, Look], out: Path) -> list[Path]:
    """Heat maps ``corruptions-<model>-<data>.png``, and ``corruptions-against-severity-<data>.png`` per data set."""
    groups = corruption_grids(rows)
    paths = []
    for (dataset, data, source), grids in groups.items():
        several = len({other for name, other, _ in groups if name == dataset}) > 1
        suffix = file_name(dataset) + (f"-{data[:8]}" if several else "")
        for grid in grids:
            model = grid.row.model
            paths.append(out / f"corruptions-{file_name(model.name)}-{model.weights_hash[:8]}-{suffix}.png")
            _draw_heat_map(grid, paths[-1])
        mixed = len({other for _, found, other in groups if found == data}) > 1
        if types := shared_types(grids):
            paths.append(out / f"corruptions-against-severity-{suffix}{f'-{file_name(source)}' if mixed else ''}.png")
            _draw_severity(grids, types, looks, paths[-1])
    return paths


def _draw_heat_map(grid: CorruptionGrid, path: Path) -> None:
    cells, averaged, row = grid.cells, grid.averaged, grid.row
    clean, mean = clean_accuracy(row), 100 * float(averaged.to_numpy().mean())
    extra = "; below the gap: extra types" if 0 < len(averaged) < len(cells) else ""
    blocks = [(grid.percent.to_numpy(), list(map(str, cells.columns))), (grid.by_type.to_numpy()[:, None], ["mean"])]
    with drawing(path, 4.4, 0.29 * len(cells) + 0.9) as figure:
        widths = [values.shape[1] for values, _ in blocks]
        axes = figure.subplots(1, 2, gridspec_kw={"width_ratios": widths, "wspace": 0.05})
        for axis, (values, names) in zip(axes, blocks, strict=True):
            heat_cells(axis, values, names)
            if 0 < len(averaged) < len(cells):  # the extra types, which enter no mean, come last
                axis.axhline(len(averaged) - 0.5, color="white", linewidth=6)
        axes[0].set_yticks(range(len(cells)), [str(name).replace("_", " ") for name in cells.index])
        axes[1].set_yticks([])
        axes[0].set_xlabel("severity", labelpad=4)
        source = row.corruption_source or row.dataset
        axes[0].set_title(row.model.name, loc="left", pad=24, fontsize=10.5, fontweight="bold")
        axes[0].annotate(
            f"accuracy in percent, {source}, {grid.n:,} images,\n95 % intervals up to ± {widest(grid.n):.1f}; "
            f"clean {clean:.2f}, mean of {averaged.size} cells {mean:.2f}{extra}",
            (0, 1), xytext=(0, 5), xycoords="axes fraction", textcoords="offset points", color=QUIET, fontsize=7.5,
        )  # fmt: skip


def _draw_severity(grids: Sequence[CorruptionGrid], types: set[str], looks: dict[str, Look], path: Path) -> None:
    curves = [(grid.row.model.name, grid.against_severity(types)) for grid in grids]
    with drawing(path, 5.6, 3.6) as figure:
        axes = figure.subplots()
        ends = {}
        for name, points in curves:
            x = [severity for severity, _ in points]
            y, low, high = np.array([accuracy for _, accuracy in points]).T
            colour = looks[name].hex
            axes.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
            axes.plot(x, y, f"-{looks[name].marker}", color=colour, linewidth=1.8, markersize=4.5,
                      markeredgecolor="white", markeredgewidth=0.6, clip_on=False, zorder=3)  # fmt: skip
            ends[name] = (x[-1], float(y[-1]))
        severities = sorted({int(x) for _, points in curves for x, _ in points[1:]})
        axes.set_xlim(0, severities[-1])
        axes.tick_params(axis="x", pad=6)
        axes.set_xticks([0, *severities], ["clean", *map(str, severities)])
        axes.set_ylim(0, 100)
        axes.yaxis.set_major_locator(MultipleLocator(20))
        axes.yaxis.grid(True, color=GRID, linewidth=0.8)
        bare(axes, keep="bottom")
        end_labels(axes, ends, {name: looks[name].hex for name in ends}, 5.2)
        axes.set_xlabel("severity", labelpad=6)
        axes.set_title("Accuracy in percent against severity", loc="left", pad=24, fontsize=10.5, fontweight="bold")
        source = grids[0].row.corruption_source or grids[0].row.dataset
        n = " to ".join(f"{size:,}" for size in dict.fromkeys((min(g.n for g in grids), max(g.n for g in grids))))
        caption = f"mean of {len(types)} corruptions, {source}; {n} test images, 95 % bands"
        axes.text(0, 1.035, caption, transform=axes.transAxes, color=QUIET, fontsize=8)
