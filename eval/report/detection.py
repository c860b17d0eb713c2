"""The tables of ``advdpnp detect``: CSV for programs, Markdown for people."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from advdpnp.base.files import write_text
from advdpnp.eval.detection.run import ADAPTIVE, ATTACK, CLEAN, OUTLIERS
from advdpnp.eval.detection.table import MEASURES, SHARES
from advdpnp.eval.report.csv import to_csv
from advdpnp.eval.report.markdown import escape, head, table
from advdpnp.eval.report.tables import Grid, number

_DIGITS = 1


def detection_grids(frame: pd.DataFrame, *, intervals: bool = True) -> list[Grid]:
    """What ``to_frame`` gives, as tables for people: outliers, and adversarial images.

    Args:
        frame: as ``to_frame`` makes it, with the columns dataset, norm, eps and false_alarms.
        intervals: add the 95 % intervals of the AUROC.
    """
    grids = []
    if len(outliers := frame[frame["kind"] == OUTLIERS]):
        names = list(dict.fromkeys(outliers["images"]))
        heads = ["model", "score", *names, "clean flagged", *(f"{name} flagged" for name in names)]
        rows = [
            [
                *key,
                *(_cell(part, OUTLIERS, name, "auroc", intervals) for name in names),
                _cell(part, CLEAN, CLEAN, "flagged"),
                *(_cell(part, OUTLIERS, name, "flagged") for name in names),
            ]
            for key, part in _by_score(frame)
        ]
        grids.append(Grid(_caption(frame, "outliers"), heads, rows, ("score",), _OUTLIER_NOTES))
    attacks = list(dict.fromkeys(frame.loc[frame["kind"] == ATTACK, "images"]))
    adaptive = [ADAPTIVE] if (frame["kind"] == ADAPTIVE).any() else []
    if columns := [*((ATTACK, name) for name in attacks), *((ADAPTIVE, name) for name in adaptive)]:
        shown = [name for _, name in columns]
        errors = [f"{name} undetected" for name in (CLEAN, *shown)]
        rows = [
            [
                *key,
                *(_cell(part, kind, name, "auroc", intervals) for kind, name in columns),
                _cell(part, CLEAN, CLEAN, "flagged"),
                *(_cell(part, kind, name, "undetected_errors") for kind, name in ((CLEAN, CLEAN), *columns)),
            ]
            for key, part in _by_score(frame)
        ]
        heads = ["model", "score", *shown, "clean flagged", *errors]
        grids.append(Grid(_caption(frame, "adversarial images"), heads, rows, ("score",), _ATTACK_NOTES))
    return grids


_OUTLIER_NOTES = [
    "AUROC: all outliers against all clean test images. Flagged: above the threshold, which comes from held-out clean "
    "images."
]
_ATTACK_NOTES = [
    "AUROC: images that were classified correctly and no longer are, against clean test images that are classified "
    "correctly. Undetected: share of all test images that are misclassified and not flagged; clean mistakes count.",
    "The adaptive attack knows the score; a score is worth no more than its column says.",
]


def write_detection(frame: pd.DataFrame, notes: Sequence[str], command: str, out: Path) -> list[Path]:
    """Write ``detection.csv`` and ``detection.md`` to the folder ``out``; returns their paths."""
    shown = frame.copy()
    for name in [f"{name}{side}" for name in (*MEASURES, *SHARES) for side in ("", "_low", "_high")]:
        shown[name] = [f"{value:.2f}" if pd.notna(value) else "" for value in frame[name]]
    shown["threshold"] = [f"{value:.6g}" for value in frame["threshold"]]
    text = to_csv(shown)
    blocks = ["\n".join(_lines(grid)) for grid in detection_grids(frame)]
    if notes:
        blocks.append("\n".join(f"- {escape(note)}" for note in notes))
    if command:
        blocks.append(f"    {command}")
    paths = [out / "detection.csv", out / "detection.md"]
    write_text(paths[0], text)
    write_text(paths[1], "\n\n".join(blocks) + "\n")
    return paths


def _lines(grid: Grid) -> list[str]:
    rows = [[escape(cell) for cell in row] for row in grid.rows]
    notes = [line for note in grid.notes for line in ("", escape(note))]
    return [f"**{escape(grid.caption)}**", "", *table([*map(head, grid.heads)], rows, grid.words), *notes]


def _by_score(frame: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    grouped = frame.groupby(["model", "score"], sort=False)
    return [((str(model), str(score)), part) for (model, score), part in grouped]


def _cell(part: pd.DataFrame, kind: str, images: str, name: str, intervals: bool = False) -> str:
    rows = part[(part["kind"] == kind) & (part["images"] == images)]
    if rows.empty or pd.isna(rows[name].iloc[0]):
        return number(None)
    row = rows.iloc[0]
    text = number(row[name], _DIGITS)
    return (
        f"{text} ({number(row[f'{name}_low'], _DIGITS)}–{number(row[f'{name}_high'], _DIGITS)})" if intervals else text
    )


def _caption(frame: pd.DataFrame, what: str) -> str:
    first, clean = frame.iloc[0], frame[frame["kind"] == CLEAN].iloc[0]
    threat = "" if what == "outliers" else f", {first['norm']} eps {first['eps']}"
    return (
        f"{first['dataset']}, {what}{threat}: AUROC in percent; {clean['n']} test images, threshold for "
        f"{first['false_alarms']:g} % false alarms, seed {first['seed']}"
    )
