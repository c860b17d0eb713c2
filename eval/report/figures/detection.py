"""Pictures of detection: histograms of every score, and ROC curves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from advdpnp.base.plotting import GRID, INK, QUIET, bare, drawing, model_colours
from advdpnp.eval.detection.measures import roc_curve
from advdpnp.eval.detection.run import Detection
from advdpnp.eval.store.key import file_name

_BINS = 30
_SHOWN = (0.005, 0.995)  # quantiles of all scores between which a histogram is drawn
_COLUMNS = 4


def draw_detection(detections: Sequence[Detection], out: Path) -> list[Path]:
    """Two figures per model, ``scores-MODEL.png`` and ``roc-MODEL.png`` in ``out``; a panel per score."""
    paths = []
    for model in dict.fromkeys(each.model for each in detections):
        own = [each for each in detections if each.model == model]
        colours = model_colours([each.name for each in own[0].others])
        for kind, draw, title in (
            ("scores", _histogram, "scores; right of the line is flagged"), ("roc", _roc, "ROC curves"),
        ):  # fmt: skip
            path = out / f"{kind}-{file_name(model)}.png"
            _panels(own, colours, path, f"{model}: {title}", draw)
            paths.append(path)
    return paths


def _panels(detections: list[Detection], colours: dict[str, str], path: Path, title: str, draw: object) -> None:
    assert callable(draw)
    columns = min(_COLUMNS, len(detections))
    rows = -(-len(detections) // columns)
    height = 2.5 * rows + 0.9
    with drawing(path, 2.9 * columns, height) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, each in zip(panels, detections, strict=False):
            draw(axes, each, colours)
            axes.set_title(each.score, loc="left", color=INK)
        for axes in panels[len(detections) :]:
            axes.set_visible(False)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.1, 0.0), ncols=4, frameon=False, fontsize=8)
        figure.suptitle(title, x=0.1, ha="left", fontsize=10.5, fontweight="bold")
        figure.subplots_adjust(hspace=0.5, wspace=0.25, top=1 - 0.6 / height, bottom=0.85 / height)


def _histogram(axes: Axes, each: Detection, colours: dict[str, str]) -> None:
    parts = [part.scores[part.positive] for part in each.others]
    low, high = np.quantile(np.concatenate([each.clean.scores, *parts]), _SHOWN)
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    axes.hist(np.clip(each.clean.scores, low, high), edges.tolist(), density=True, color=GRID, label="clean")
    for part, values in zip(each.others, parts, strict=True):
        if len(values):
            axes.hist(
                np.clip(values, low, high), edges.tolist(), density=True, histtype="step", color=colours[part.name],
                linewidth=1.3, label=part.name,
            )  # fmt: skip
        else:
            axes.plot([], [], color=colours[part.name], linewidth=1.3, label=f"{part.name} (none)")
    if low <= each.threshold <= high:
        axes.axvline(each.threshold, color=QUIET, linewidth=0.9, linestyle="--")
    axes.set_yticks([])
    axes.tick_params(labelsize=7)
    bare(axes, keep="bottom")


def _roc(axes: Axes, each: Detection, colours: dict[str, str]) -> None:
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=0.9)
    for part in each.others:
        positives, negatives = part.scores[part.positive], each.negatives(part)
        if len(positives) and len(negatives):
            false, true = roc_curve(positives, negatives)
            axes.plot(false, true, color=colours[part.name], linewidth=1.4, label=part.name)
        else:
            axes.plot([], [], color=colours[part.name], linewidth=1.4, label=f"{part.name} (none)")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.01)
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])
    axes.tick_params(labelsize=7)
    axes.set_xlabel("false positives", fontsize=7.5, color=QUIET)
    axes.set_ylabel("true positives", fontsize=7.5, color=QUIET)
    bare(axes, keep="left bottom")
