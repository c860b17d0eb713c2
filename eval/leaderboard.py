"""The leaderboard: derived from verdicts alone, as a data frame, CSV and Markdown."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from advdpnp.eval.corruption_columns import (
    MEAN,
    corruption_record,
    corruption_tables,
    detail_columns,
    is_detail,
    mean_corruption_errors,
)
from advdpnp.eval.flags import FLAGS, raised_flags
from advdpnp.eval.markdown import escape, number, table
from advdpnp.eval.results import Row, find_results, make_rows
from advdpnp.eval.unit import short_hash
from advdpnp.files import write_text
from advdpnp.statistics import wilson

_BEFORE = ("fgsm", "pgd-20", "cw")
_LAST = ("autoattack",)
_TEXT = (
    "method", "architecture", "norm", "eps_text", "dataset", "corruption_source", "weights_hash", "data_hash",
    "definitions", "versions", "device", "date", "command", "flag_details",
)  # fmt: skip


def build_leaderboard(folders: Sequence[Path], mce_baseline: str | None = None) -> pd.DataFrame:
    """The table of everything complete in or below these folders, one row per model, threat model and seed.

    Columns: model, clean, the attacks that ran (fgsm, pgd-20, cw, others, autoattack), worst_case, corruptions (if
    run), n, flags; then everything else. Accuracies are percent, rounded to 2 decimals, on the same n samples within
    a row. Rows are sorted by data set and threat model, then best first.

    Args:
        folders: what to read.
        mce_baseline: name of the model whose errors those of the others are divided by, in a column ``mce``.

    Raises:
        AdvdpnpError: a folder holds no results, a file is damaged, or the baseline cannot be compared with.
    """
    return tabulate_rows(make_rows(find_results(folders)), mce_baseline)


def tabulate_rows(rows: Sequence[Row], mce_baseline: str | None = None) -> pd.DataFrame:
    """The same for rows already in hand."""
    attacks = order_attacks({attack for row in rows for attack in row.attacks})
    accuracies = ["clean", *attacks, "worst_case"]
    if any(row.cells for row in rows):
        accuracies.append(MEAN)
    records = [_record(row, rows) for row in rows]
    if mce_baseline:
        for record, mce in zip(records, mean_corruption_errors(rows, mce_baseline), strict=True):
            record |= {"mce": mce, "mce_baseline": mce_baseline}
    bounds = [f"{name}_{side}" for name in accuracies for side in ("low", "high")]
    columns = [
        "model", *accuracies, "n", "flags", "method", "architecture", "parameters", "min_separation",
        "training_seconds", *detail_columns(records),
        *(("mce", "mce_baseline") if mce_baseline else ()), *bounds, "norm", "eps", "eps_text",
        "seed", "dataset", "corruption_source", "weights_hash", "data_hash", "definitions", "versions", "device",
        "date", "command", "forwards", "backwards", "seconds", "flag_details",
    ]  # fmt: skip
    return _sorted(_typed(pd.DataFrame(records, columns=columns)))


def order_attacks(attacks: Iterable[str]) -> list[str]:
    """Columns from cheap to dear: fgsm, pgd-20, cw, all others by name and number, autoattack."""
    present = set(attacks)
    others = sorted(present - {*_BEFORE, *_LAST}, key=_natural)
    return [a for a in _BEFORE if a in present] + others + [a for a in _LAST if a in present]


def accuracy_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of accuracies in percent, in order."""
    names = list(frame.columns)
    return names[names.index("clean") : names.index("n")]


def write_leaderboard(frame: pd.DataFrame, out: Path) -> tuple[Path, Path]:
    """Write ``leaderboard.csv`` and ``leaderboard.md`` to the folder ``out``."""
    csv, markdown = out / "leaderboard.csv", out / "leaderboard.md"
    write_text(csv, to_csv(frame))
    write_text(markdown, to_markdown(frame))
    return csv, markdown


def to_csv(frame: pd.DataFrame) -> str:
    """CSV text; accuracies and their bounds with exactly 2 decimals, what is not known is empty."""
    shown = frame.copy()
    for name in _percent_columns(frame):
        shown[name] = [f"{value:.2f}" if pd.notna(value) else "" for value in frame[name]]
    return str(shown.to_csv(index=False, lineterminator="\n"))


def read_leaderboard(path: Path) -> pd.DataFrame:
    """Read a ``leaderboard.csv`` back with the types that ``build_leaderboard`` gives."""
    text = dict.fromkeys(("model", "flags", *_TEXT), str)
    return _typed(pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"seed": [""], "eps": [""]}))


def to_markdown(frame: pd.DataFrame) -> str:
    """One table per data set and threat model, the best of each column in bold, raised flags explained below."""
    if frame.empty:
        return "No results.\n"
    blocks = []
    for _, part in frame.groupby(["dataset", "data_hash", "norm", "eps", "seed"], dropna=False, sort=False):
        blocks.append(_markdown_table(part))
    return "\n".join(blocks)


def _record(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    record: dict[str, Any] = {"model": row.model.name}
    counts = {"clean": ~row.clean_wrong, **{attack: ~row.broken(attack) for attack in row.attacks}}
    if row.attacks:
        counts["worst_case"] = ~row.broken_by_any
    for name, right in counts.items():
        record |= _percent_with_bounds(name, float(right.sum()), row.n)
    units = [row.clean, *row.attacks.values()]
    if row.cells:
        record |= _corruption_record(row)
    newest = max(units, key=lambda unit: unit.date)
    flags = raised_flags(row, rows)
    verdicts = [row.verdict_rows(attack) for attack in row.attacks]
    return record | {
        "n": row.n,
        "flags": "; ".join(dict.fromkeys(flag.code for flag in flags)),
        "flag_details": "; ".join(f"{flag.code}: {flag.seen}" for flag in flags),
        "method": row.model.method,
        "architecture": row.model.architecture,
        "parameters": row.model.parameters,
        "min_separation": _rounded(row.model.min_separation),
        "training_seconds": _rounded(row.model.training_seconds),
        "norm": row.threat.norm,
        "eps": row.threat.eps,
        "eps_text": row.threat.eps_text,
        "seed": row.seed,
        "dataset": row.dataset,
        "weights_hash": row.model.weights_hash,
        "data_hash": row.data,
        "definitions": short_hash(sorted(unit.hash for unit in [*units, *row.cells.values()])),
        "versions": ", ".join(f"{name} {version}" for name, version in newest.last_run.get("versions", {}).items()),
        "device": newest.last_run.get("device", ""),
        "date": newest.date,
        "command": newest.last_run.get("command", ""),
        "forwards": sum(int(frame["forwards"].sum()) for frame in verdicts),
        "backwards": sum(int(frame["backwards"].sum()) for frame in verdicts),
        "seconds": round(sum(unit.seconds for unit in units), 1),
    }


def _corruption_record(row: Row) -> dict[str, Any]:
    """Of the mean also the bounds.

    The cells show the same images, so the interval takes each image, not each cell, as one observation: it is wider
    than what is known, never narrower.
    """
    record = corruption_record(row)
    if pd.notna(mean := record.get(MEAN)):
        n = int(row.corruption_accuracy()["n"].iloc[0])
        record |= _percent_with_bounds(MEAN, mean * n / 100, n)
    return record


def _rounded(value: float | None) -> float:
    return float("nan") if value is None else round(value, 2)


def _percent_with_bounds(name: str, successes: float, n: int) -> dict[str, float]:
    low, high = wilson(successes, n)
    value = 100 * successes / n if n else np.nan
    return {name: round(value, 2), f"{name}_low": round(100 * low, 2), f"{name}_high": round(100 * high, 2)}


def _percent_columns(frame: pd.DataFrame) -> list[str]:
    accuracies = accuracy_columns(frame)
    return accuracies + [f"{name}_{side}" for name in accuracies for side in ("low", "high")]


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    kinds: dict[str, Any] = dict.fromkeys(_percent_columns(frame), "float64")
    kinds |= dict.fromkeys(("n", "parameters", "seed", "forwards", "backwards"), "Int64")
    kinds |= dict.fromkeys(("eps", "seconds", "min_separation", "training_seconds"), "float64")
    kinds |= dict.fromkeys([name for name in map(str, frame) if is_detail(name) or name == "mce"], "float64")
    for name in ("model", "flags", *_TEXT):
        frame[name] = frame[name].fillna("").astype(str)
    for name, kind in kinds.items():
        frame[name] = pd.to_numeric(frame[name]).astype(kind)
    return frame


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    order = ["dataset", "data_hash", "norm", "eps", "seed", "worst_case", "clean", "model"]
    ascending = [True, True, True, True, True, False, False, True]
    return frame.sort_values(order, ascending=ascending, kind="stable", ignore_index=True)


def _natural(text: str) -> list[tuple[int, int | str]]:
    """Sort key that puts pgd-5 before pgd-40."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part]


def _markdown_table(part: pd.DataFrame) -> str:
    accuracies = [name for name in accuracy_columns(part) if part[name].notna().any()]
    # A worst case over fewer attacks is no rival of one over all.
    full = part[part[[name for name in accuracies if name != MEAN]].notna().all(axis=1)]
    best = {name: (full if name == "worst_case" else part)[name].max() for name in accuracies}
    rows = []
    for _, row in part.iterrows():
        shown = [
            f"**{number(row[name])}**" if row[name] == best[name] and len(part) > 1 else number(row[name])
            for name in accuracies
        ]
        rows.append([escape(str(row["model"])), *shown, str(row["n"]), str(row["flags"])])
    lines = [f"**{_caption(part)}**", "", *table(["model", *accuracies, "n", "flags"], rows)]
    raised = dict.fromkeys(code for flags in part["flags"] for code in flags.split("; ") if code)
    if raised:
        lines += ["", *(f"- `{code}`: {FLAGS[code].explanation}. Remedy: {FLAGS[code].remedy}." for code in raised)]
    return "\n".join([*lines, *corruption_tables(part)]) + "\n"


def _caption(part: pd.DataFrame) -> str:
    first = part.iloc[0]
    threat = f"{first['norm']} eps {first['eps_text']}" if first["norm"] else "clean images only"
    sizes = sorted(set(part["n"].tolist()))
    n = (
        f"n = {sizes[0]}"
        if len(sizes) == 1
        else f"n = {sizes[0]} to {sizes[-1]}: rows of different n are not comparable"
    )
    seed = "" if pd.isna(first["seed"]) else f", seed {first['seed']}"
    source = next((s for s in part["corruption_source"] if s), "")
    corruptions = f", corruptions: {source}" if source else ""
    return f"{first['dataset']}, {threat}, {n}{seed}{corruptions}; accuracy in percent"
