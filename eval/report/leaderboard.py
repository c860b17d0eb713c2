"""The leaderboard as a data frame, derived from verdicts alone, and its files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from advdpnp.base.files import folder_lock, write_text
from advdpnp.base.statistics import wilson
from advdpnp.eval.analysis.columns import DISTANCES, meaning_of, row_key, with_types
from advdpnp.eval.analysis.corruptions import (
    COUNT,
    MEAN,
    corruption_record,
    detail_columns,
    mean_corruption_errors,
)
from advdpnp.eval.analysis.rows import Row, make_rows, order_attacks
from advdpnp.eval.analysis.search_notes import distances
from advdpnp.eval.analysis.seeds import summarise_seeds
from advdpnp.eval.analysis.significance import against_the_best
from advdpnp.eval.diagnostics.flag import Flag
from advdpnp.eval.diagnostics.flags import raised_flags
from advdpnp.eval.report.csv import leaderboard_to_csv, to_csv
from advdpnp.eval.report.exports.latex import to_latex
from advdpnp.eval.report.markdown import to_markdown
from advdpnp.eval.report.robustbench import is_published, published_rows
from advdpnp.eval.store.key import canonical_json, short_hash
from advdpnp.eval.store.reader import find_results

_SEEDS = "seeds.csv"
Flags = Mapping[tuple[str, ...], Sequence[Flag]]
"""What rows raised, by their key."""

_PATIENCE = 300.0  # seconds that another process may take for its tables and figures


def build_leaderboard(folders: Sequence[Path], mce_baseline: str | None = None) -> pd.DataFrame:
    """The table of everything complete in or below these folders, one row per model, threat model and seed.

    Columns: model, clean, the attacks that ran (from cheap to expensive), worst_case, corruptions (if
    run), n, flags; then everything else. Accuracies are percent, rounded to 2 decimals, on the same n samples within
    a row. Rows are sorted by data set and threat model, then best first.

    Args:
        folders: what to read.
        mce_baseline: name of the model whose errors those of the others are divided by, in a column ``mce``.

    Raises:
        AdvdpnpError: a folder holds no results, a file is damaged, or nothing is known of the baseline.
    """
    return tabulate_rows(make_rows(find_results(folders)), mce_baseline)


def flags_of(rows: Sequence[Row]) -> Flags:
    """The flags of each row, by its key."""
    return {row.key: raised_flags(row, rows) for row in sorted(rows, key=lambda row: row.key)}


def tabulate_rows(rows: Sequence[Row], mce_baseline: str | None = None, flags: Flags | None = None) -> pd.DataFrame:
    """The same for rows already in hand, and their flags if these are known."""
    rows = sorted(rows, key=lambda row: row.key)  # nothing may depend on which folder was named first
    flags = flags_of(rows) if flags is None else flags
    attacks = order_attacks(rows)
    accuracies = ["clean", *attacks, "worst_case"]
    if any(row.cells for row in rows):
        accuracies.append(MEAN)
    records = [_record(row, flags[row.key]) for row in rows]
    if mce_baseline:
        for record, (mce, why) in zip(records, mean_corruption_errors(rows, mce_baseline), strict=True):
            record |= {"mce": mce, "mce_baseline": mce_baseline, "mce_note": why}
    for record, chance in zip(records, against_the_best(rows), strict=True):
        record |= {"worst_case_p": chance.p, "worst_case_p_holm": chance.corrected}
    nearest = [f"{kind}{attack}" for attack in attacks for kind in DISTANCES]
    bounds = [f"{name}_{side}" for name in accuracies for side in ("low", "high")]
    columns = [
        "model", *accuracies, "n", "flags", "method", "architecture", "parameters", "min_separation",
        "training_seconds", "worst_case_p", "worst_case_p_holm", *detail_columns(records),
        *(name for name in nearest if any(name in record for record in records)),
        *(("mce", "mce_baseline", "mce_note") if mce_baseline else ()),
        *(("dtype",) if any(record["dtype"] for record in records) else ()), *bounds, "norm", "eps", "eps_text",
        "seed", "dataset", "corruption_source", "weights_hash", "data_hash", "definitions", "versions", "device",
        "date", "command", "forwards", "backwards", "seconds", "flag_details", "recipe_hash", "training_seed",
        "samples", "samples_hash", "attack_definitions", "sanity_n",
    ]  # fmt: skip
    return _sorted(with_types(pd.DataFrame(records, columns=columns)))


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
    """Write ``leaderboard.csv``, ``.md``, ``.tex`` and ``.json`` to a folder; ``seeds.csv`` where there are several."""
    for suffix, text in {
        "csv": leaderboard_to_csv(frame), "md": to_markdown(frame), "tex": to_latex(frame), "json": to_json(frame),
    }.items():  # fmt: skip
        write_text(out / f"leaderboard.{suffix}", text)
    seeds = summarise_seeds(_measured(frame))
    if len(seeds):
        write_text(out / _SEEDS, to_csv(seeds))
    elif (out / _SEEDS).exists() and (out / _SEEDS).read_text(encoding="utf-8").startswith("over,group,"):
        (out / _SEEDS).unlink()  # an earlier one, of results that are no longer here


def with_published(frame: pd.DataFrame, rows: Sequence[Row]) -> pd.DataFrame:
    """A leaderboard, and below it what RobustBench publishes of the same data sets and threat models.

    Args:
        frame: what ``tabulate_rows`` makes of ``rows``.

    Raises:
        AdvdpnpError: as ``published_rows``.
    """
    standard = {row.key for row in rows if any(info.standard_autoattack for info in row.attack_infos.values())}
    frame = frame.assign(
        standard_autoattack=["yes" if row_key(line) in standard else "" for _, line in frame.iterrows()]
    )
    more = published_rows(frame)
    ours = frame.reindex(columns=more.columns)
    return with_types(pd.concat([ours, more], ignore_index=True) if len(more) else ours)


def to_json(frame: pd.DataFrame) -> str:
    """``columns`` says what each column means, ``rows`` holds the table; what is not known is null.

    ``seeds`` holds the same two of the summary over seeds, where there is one.
    """
    content: dict[str, Any] = _as_json(frame)
    seeds = summarise_seeds(_measured(frame))
    if len(seeds):
        content["seeds"] = _as_json(seeds)
    return json.dumps(content, indent=1) + "\n"


def _as_json(frame: pd.DataFrame) -> dict[str, Any]:
    rows = json.loads(frame.to_json(orient="records", double_precision=10))
    return {"columns": {name: meaning_of(name) for name in map(str, frame)}, "rows": rows}


def _measured(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[~is_published(frame)]


def _record(row: Row, flags: Sequence[Flag]) -> dict[str, Any]:
    record: dict[str, Any] = {"model": row.model.name}
    counts = {"clean": ~row.clean_wrong, **{attack: ~row.misclassified_under(attack) for attack in row.attacks}}
    if row.attacks:
        counts["worst_case"] = ~row.misclassified_under_any
    for name, right in counts.items():
        record |= _percent_with_bounds(name, float(right.sum()), row.n)
    units = [row.clean, *row.attacks.values()]
    if row.cells:
        record |= _corruption_record(row)
    for attack in (label for label, info in row.attack_infos.items() if info.minimum_norm):
        record |= {f"{kind}{attack}": value for kind, value in zip(DISTANCES, distances(row, attack)[:2], strict=True)}
    newest = max(units, key=lambda unit: unit.date)
    verdicts = [row.verdict_rows(attack) for attack in row.attacks]
    return record | {
        "n": row.n,
        "flags": "; ".join(dict.fromkeys(flag.code for flag in flags)),
        "recipe_hash": row.model.recipe_hash,
        "training_seed": row.model.training_seed,
        "samples": row.samples_text,
        "samples_hash": row.samples_hash,
        "attack_definitions": canonical_json(row.comparison_keys),
        "flag_details": "; ".join(f"{flag.code}: {flag.seen}" for flag in flags),
        "sanity_n": row.measured_samples,
        "method": row.model.method,
        "architecture": row.model.architecture,
        "parameters": row.model.parameters,
        "dtype": row.model.dtype,
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


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    order = ["dataset", "data_hash", "norm", "eps", "seed", "worst_case", "clean", "model", "weights_hash"]
    ascending = [True, True, True, True, True, False, False, True, True]
    return frame.sort_values(order, ascending=ascending, kind="stable", ignore_index=True)
