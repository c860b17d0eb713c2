"""Accuracy on corrupted images: type by severity per model, and against severity for all models."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.ticker import MultipleLocator

from advdpnp.base.plotting import GRID, QUIET, bare, drawing, heat_cells, spread_labels
from advdpnp.corruption import BENCHMARK, in_order
from advdpnp.eval.analysis.rows import Row
from advdpnp.eval.store.key import file_name


def draw_corruptions(rows: Sequence[Row], colours: dict[str, str], out: Path) -> list[Path]:
    """Heat maps ``corruptions-<model>-<data>.png``, and ``corruptions-against-severity-<data>.png`` per data set."""
    tables: dict[tuple[str, str], dict[tuple[str, str], tuple[Row, pd.DataFrame]]] = defaultdict(dict)
    for row in rows:
        # The rows of one model share their cells: the one with the most samples speaks for all.
        subject = row.model.name, row.model.weights_hash
        known = tables[row.dataset, row.data].get(subject)
        if row.cells and (known is None or row.n > known[0].n):
            table = row.corruption_accuracy()
            if table["n"].min() > 0:
                tables[row.dataset, row.data][subject] = row, table
    paths = []
    for (dataset, data), models in tables.items():
        if not models:
            continue
        several = sum(1 for key in tables if key[0] == dataset) > 1
        suffix = file_name(dataset) + (f"-{data[:8]}" if several else "")
        for (name, weights), (row, table) in models.items():
            path = out / f"corruptions-{file_name(name)}-{weights[:8]}-{suffix}.png"
            _draw_heat_map(row, table, path)
            paths.append(path)
        sources = sorted({row.corruption_source for row, _ in models.values()})
        for source in sources:  # numbers on official images and on regenerated ones do not compare
            path = out / f"corruptions-against-severity-{suffix}{f'-{file_name(source)}' if sources[1:] else ''}.png"
            among = [(row, table) for row, table in models.values() if row.corruption_source == source]
            if types := shared_types([table for _, table in among]):
                _draw_severity([(row, table[table["type"].isin(types)]) for row, table in among], colours, path)
                paths.append(path)
    return paths


def _draw_heat_map(row: Row, table: pd.DataFrame, path: Path) -> None:
    grid = 100 * table.pivot(index="type", columns="severity", values="accuracy")
    grid = grid.loc[in_order(grid.index)]
    usual = grid[grid.index.isin(list(BENCHMARK))]
    averaged = usual if len(usual) == len(BENCHMARK) else grid
    clean, mean = 100 * (~row.clean_wrong).mean(), float(averaged.to_numpy().mean())
    blocks = [(grid.to_numpy(), list(map(str, grid.columns))), (grid.mean(axis=1).to_numpy()[:, None], ["mean"])]
    with drawing(path, 4.4, 0.29 * len(grid) + 0.9) as figure:
        widths = [values.shape[1] for values, _ in blocks]
        axes = figure.subplots(1, 2, gridspec_kw={"width_ratios": widths, "wspace": 0.05})
        for axis, (values, names) in zip(axes, blocks, strict=True):
            heat_cells(axis, values, names)
        axes[0].set_yticks(range(len(grid)), [str(name).replace("_", " ") for name in grid.index])
        axes[1].set_yticks([])
        axes[0].set_xlabel("severity", labelpad=4)
        n, source = int(table["n"].iloc[0]), row.corruption_source or row.dataset
        axes[0].set_title(row.model.name, loc="left", pad=24, fontsize=10.5, fontweight="bold")
        axes[0].annotate(
            f"accuracy in percent, {source}, {n:,} images\nclean {clean:.1f}, mean of {averaged.size} cells {mean:.1f}",
            (0, 1), xytext=(0, 5), xycoords="axes fraction", textcoords="offset points", color=QUIET, fontsize=7.5,
        )  # fmt: skip


def shared_types(tables: Sequence[pd.DataFrame]) -> set[str]:
    """The types by which models can be compared: the benchmark's where all have all of them, else what all have."""
    shared = set.intersection(*(set(table["type"]) for table in tables))
    return set(BENCHMARK) if shared >= set(BENCHMARK) else shared


def _draw_severity(models: list[tuple[Row, pd.DataFrame]], colours: dict[str, str], path: Path) -> None:
    with drawing(path, 5.6, 3.6) as figure:
        axes = figure.subplots()
        ends = []
        for row, table in models:
            mean = 100 * table.groupby("severity")["accuracy"].mean()
            x = [0, *mean.index]
            y = [100 * (~row.clean_wrong).mean(), *mean]
            colour = colours[row.model.name]
            axes.plot(x, y, "-o", color=colour, linewidth=1.8, markersize=4.5, markeredgecolor="white",
                      markeredgewidth=0.6, clip_on=False, zorder=3)  # fmt: skip
            ends.append((x[-1], y[-1], row.model.name))
        severities = sorted({int(s) for _, table in models for s in table["severity"]})
        axes.set_xlim(0, severities[-1])
        axes.tick_params(axis="x", pad=6)
        axes.set_xticks([0, *severities], ["clean", *map(str, severities)])
        low = min(end for _, end, _ in ends)
        floor = 0 if low < 40 else 20 * int(low // 20)
        axes.set_ylim(floor, 100)
        axes.yaxis.set_major_locator(MultipleLocator(10 if floor else 20))
        axes.yaxis.grid(True, color=GRID, linewidth=0.8)
        bare(axes, keep="bottom")
        places = spread_labels([end[1] for end in ends], (100 - floor) * 0.052, floor + 1, 99)
        for (x_end, y_end, name), place in zip(ends, places, strict=True):
            axes.text(x_end * 1.025, place, f"{name}  {y_end:.1f}", va="center", color=colours[name], fontsize=8.5,
                      fontweight="bold")  # fmt: skip
        axes.set_xlabel("severity", labelpad=6)
        axes.set_title("Accuracy in percent against severity", loc="left", pad=24, fontsize=10.5, fontweight="bold")
        kinds = models[0][1]["type"].nunique()
        source = models[0][0].corruption_source or models[0][0].dataset
        axes.text(0, 1.035, f"mean of {kinds} corruptions, {source}", transform=axes.transAxes,
                  color=QUIET, fontsize=8)  # fmt: skip
