"""The leaderboard: derived from verdicts alone, as a data frame, CSV and Markdown."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from advdpnp.eval.columns import accuracy_columns, meaning_of
from advdpnp.eval.comparison import against_the_best
from advdpnp.eval.corruption_columns import (
    COUNT,
    MEAN,
    corruption_record,
    detail_columns,
    is_detail,
    mean_corruption_errors,
)
from advdpnp.eval.flags import raised_flags
from advdpnp.eval.latex import to_latex
from advdpnp.eval.markdown import to_markdown
from advdpnp.eval.results import Row, find_results, make_rows
from advdpnp.eval.unit import short_hash
from advdpnp.files import folder_lock, write_text
from advdpnp.statistics import wilson

_BEFORE = ("fgsm", "pgd-20", "cw")
_LAST = ("autoattack",)
_PATIENCE = 300.0  # seconds that another process may take for its tables and figures
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
    for record, p in zip(records, against_the_best(rows), strict=True):
        record["worst_case_p"] = p
    bounds = [f"{name}_{side}" for name in accuracies for side in ("low", "high")]
    columns = [
        "model", *accuracies, "n", "flags", "method", "architecture", "parameters", "min_separation",
        "training_seconds", "worst_case_p", *detail_columns(records),
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


@contextmanager
def writing_tables(out: Path) -> Iterator[None]:
    """Read verdicts, and write tables and figures to ``out``, one process after the other.

    Two evaluations into one folder would else leave the table of the one that ends first, without the other's rows.

    Raises:
        AdvdpnpError: the folder cannot be written, or another process does not leave it.
    """
    with folder_lock(out, timeout=_PATIENCE, below=False):
        yield


def write_leaderboard(frame: pd.DataFrame, out: Path) -> None:
    """Write ``leaderboard.csv``, ``.md``, ``.tex`` and ``.json`` to the folder ``out``."""
    for suffix, text in {
        "csv": to_csv(frame), "md": to_markdown(frame), "tex": to_latex(frame), "json": to_json(frame),
    }.items():  # fmt: skip
        write_text(out / f"leaderboard.{suffix}", text)


def to_json(frame: pd.DataFrame) -> str:
    """``columns`` says what each column means, ``rows`` holds the table; what is not known is null."""
    rows = json.loads(frame.to_json(orient="records", double_precision=10))
    return json.dumps({"columns": {name: meaning_of(name) for name in map(str, frame)}, "rows": rows}, indent=1) + "\n"


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
        n = record[COUNT]
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
    kinds |= {COUNT: "Int64"} if COUNT in frame else {}
    kinds |= dict.fromkeys(("eps", "seconds", "min_separation", "training_seconds", "worst_case_p"), "float64")
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
