"""The leaderboard: derived from verdicts alone, as a data frame, CSV and Markdown."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from advdpnp.corruption import BENCHMARK, EXTRA, GROUPS, SEVERITIES
from advdpnp.errors import AdvdpnpError
from advdpnp.eval.flags import FLAGS, raised_flags
from advdpnp.eval.results import Row, find_results, make_rows
from advdpnp.eval.unit import short_hash
from advdpnp.files import write_text
from advdpnp.statistics import wilson

CORRUPTIONS_COLUMN = "corruptions"
GROUP_COLUMNS = (*(f"corruptions_{group}" for group in GROUPS), "corruptions_extra")
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
        accuracies.append(CORRUPTIONS_COLUMN)
    records = [_record(row) for row in rows]
    if mce_baseline:
        for record, mce in zip(records, mean_corruption_errors(rows, mce_baseline), strict=True):
            record |= {"mce": mce, "mce_baseline": mce_baseline}
    bounds = [f"{name}_{side}" for name in accuracies for side in ("low", "high")]
    columns = [
        "model", *accuracies, "n", "flags", "method", "architecture", "parameters", "min_separation",
        "training_seconds", *(GROUP_COLUMNS if any(row.cells for row in rows) else ()),
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


def _record(row: Row) -> dict[str, Any]:
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
    flags = raised_flags(row)
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
    """Mean over the benchmark's types and severities; the extra types are shown apart, in figures only.

    The cells show the same images, so the interval takes each image, not each cell, as one observation: it is wider
    than what is known, never narrower.
    """
    every = row.corruption_accuracy()
    cells = every[every["type"].isin(list(BENCHMARK))]
    if cells.empty or not cells["n"].iloc[0]:
        return {}
    n, mean = int(cells["n"].iloc[0]), float(cells["accuracy"].mean())
    groups = {
        column: round(100 * float(every[every["type"].isin(list(types))]["accuracy"].mean()), 2)
        for column, types in zip(GROUP_COLUMNS, (*GROUPS.values(), EXTRA), strict=True)
    }
    bounds = _percent_with_bounds(CORRUPTIONS_COLUMN, mean * n, n)
    return bounds | groups | {"corruption_source": row.corruption_source}


def mean_corruption_errors(rows: Sequence[Row], baseline: str) -> list[float]:
    """mCE of each row in percent: errors of a type over those of the baseline, averaged over the 15 types.

    Hendrycks and Dietterich 2019, section 3.1. NaN where a row has not all 75 cells, or is of other data.

    Raises:
        AdvdpnpError: no row of that name has all cells, or official images meet regenerated ones.
    """
    errors = [_errors_by_type(row) for row in rows]
    known = [place for place, row in enumerate(rows) if row.model.name == baseline and errors[place] is not None]
    if not known:
        names = sorted({row.model.name for row, found in zip(rows, errors, strict=True) if found is not None})
        raise AdvdpnpError(
            f"there is no model called '{baseline}' here, or it has not been judged on all 75 corruptions; "
            + (f"choose one of {', '.join(names)}" if names else "run 'advdpnp eval --corruptions auto' first")
        )
    base, reference = rows[known[0]], errors[known[0]]
    assert reference is not None
    means = []
    for row, found in zip(rows, errors, strict=True):
        if found is None or row.data != base.data:
            means.append(np.nan)
            continue
        if row.corruption_source != base.corruption_source:
            raise AdvdpnpError(
                f"{row.model.name} was judged on {row.corruption_source} and the baseline {baseline} on "
                f"{base.corruption_source}; an mCE between the two means nothing"
            )
        means.append(round(100 * float((found / reference).mean()), 2))
    return means


def _errors_by_type(row: Row) -> pd.Series | None:
    """Sum of the error over the severities by type; None unless all cells are there."""
    cells = row.corruption_accuracy()
    cells = cells[cells["type"].isin(list(BENCHMARK))]
    if len(cells) < len(BENCHMARK) * len(SEVERITIES) or not cells["n"].iloc[0]:
        return None
    return (1 - cells["accuracy"]).groupby(cells["type"]).sum()


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
    kinds |= dict.fromkeys([name for name in (*GROUP_COLUMNS, "mce") if name in frame], "float64")
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
    lines = [f"**{_caption(part)}**", ""]
    lines.append("| " + " | ".join(["model", *accuracies, "n", "flags"]) + " |")
    lines.append("|" + "|".join([":--", *["--:"] * (len(accuracies) + 1), ":--"]) + "|")
    # A worst case over fewer attacks is no rival of one over all.
    full = part[part[[name for name in accuracies if name != CORRUPTIONS_COLUMN]].notna().all(axis=1)]
    best = {name: (full if name == "worst_case" else part)[name].max() for name in accuracies}
    for _, row in part.iterrows():
        cells = [_escape(str(row["model"]))]
        for name in accuracies:
            text = "–" if pd.isna(row[name]) else f"{row[name]:.2f}"
            cells.append(f"**{text}**" if row[name] == best[name] and len(part) > 1 else text)
        cells += [str(row["n"]), str(row["flags"])]
        lines.append("| " + " | ".join(cells) + " |")
    raised = dict.fromkeys(code for flags in part["flags"] for code in flags.split("; ") if code)
    if raised:
        lines += ["", *(f"- `{code}`: {FLAGS[code]}." for code in raised)]
    return "\n".join([*lines, *_corruption_lines(part)]) + "\n"


def _corruption_lines(part: pd.DataFrame) -> list[str]:
    """A second table: means per group of corruptions, and mCE where a baseline was named."""
    columns = [name for name in (CORRUPTIONS_COLUMN, *GROUP_COLUMNS, "mce") if name in part]
    columns = [name for name in columns if part[name].notna().any()]
    if len(columns) < 2:
        return []
    heads = [name.removeprefix("corruptions_") for name in columns]
    if "mce" in columns:
        heads[-1] = f"mCE against {_escape(part['mce_baseline'].iloc[0])}"
    lines = ["", "| model | " + " | ".join(heads) + " |", "|" + "|".join([":--", *["--:"] * len(heads)]) + "|"]
    for _, row in part[part[columns].notna().any(axis=1)].iterrows():
        cells = ["–" if pd.isna(row[name]) else f"{row[name]:.2f}" for name in columns]
        lines.append("| " + " | ".join([_escape(str(row["model"])), *cells]) + " |")
    return lines


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


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")
