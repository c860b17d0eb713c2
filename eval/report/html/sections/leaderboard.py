"""The tables themselves: accuracies with intervals, flags, and where every row comes from."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from advdpnp.base.statistics import SIGNIFICANT
from advdpnp.eval.analysis.columns import is_distance, meaning_of
from advdpnp.eval.diagnostics.texts import FLAGS
from advdpnp.eval.report.html.context import SHOWN, PageContext, scope_of
from advdpnp.eval.report.html.section import Section
from advdpnp.eval.report.tables import Table, number, unmeasured_note

_PROVENANCE = (
    ("weights_hash", "Weights (SHA-256)"), ("data_hash", "Images and labels (SHA-256)"),
    ("samples_hash", "Set of images"), ("definitions", "Definitions of all searches"), ("recipe_hash", "Recipe"),
    ("training_seed", "Seed of the training"), ("seed", "Seed of the attacks"), ("device", "Device"),
    ("date", "Latest run"), ("versions", "Versions"),
)  # fmt: skip
_COUNTS = (("forwards", "forward passes"), ("backwards", "backward passes"))


def _gather(context: PageContext) -> Mapping[str, Any]:
    return {"blocks": [_block(context, table) for table in context.tables]}


def _block(context: PageContext, table: Table) -> dict[str, Any]:
    part = table.part
    notes = (
        ("°", table.chance_note), ("†", table.incomparable_note), ("!", unmeasured_note(part)),
        ("!", table.same_weights_note),
    )  # fmt: skip
    sources = [source for source in dict.fromkeys(part["corruption_source"]) if source]
    return {
        "scope": scope_of(context.rows_of(table), extra=" and ".join(sources)),
        "caption": table.caption,
        "ranked": any(table.rank(line) is not None for _, line in part.iterrows()),
        "columns": [{"name": name, "meaning": meaning_of(name)} for name in table.accuracies],
        "lines": (lines := [_line(context, table, line) for _, line in part.iterrows()])[:SHOWN],
        "later": lines[SHOWN:],
        "notes": [(mark, text) for mark, text in notes if text],
    }


def _line(context: PageContext, table: Table, line: pd.Series) -> dict[str, Any]:
    return {
        "model": context.model_of(context.row_of(line)),
        "rank": table.rank(line),
        "incomparable": line.name in table.marks.incomparable,
        "cells": [_cell(table, line, name) for name in table.accuracies],
        "n": int(line["n"]),
        "flags": [
            {"code": flag.code, "seen": flag.seen, **FLAGS[flag.code]._asdict()} for flag in context.flags_of(line)
        ],
        "significance": _significance(table, line),
        "provenance": [(label, str(line[name])) for name, label in _PROVENANCE if not _unknown(line[name])],
        "cost": _cost(line),
        "training": _training(line),
        "distances": [
            (name.replace("_distance:", " of "), number(line[name], 4))
            for name in map(str, table.part)
            if is_distance(name) and not _unknown(line[name])
        ],
        "command": line["command"],
    }


def _cell(table: Table, line: pd.Series, name: str) -> dict[str, Any]:
    value, low, high = (_number(line, each) for each in (name, f"{name}_low", f"{name}_high"))
    return {
        "name": name,
        "value": value,
        "low": low,
        "high": high,
        "best": table.is_best(line, name),
        "as_good": table.not_significantly_worse(line, name),
    }


def _number(line: pd.Series, name: str) -> float | None:
    value: Any = line.get(name)
    return None if _unknown(value) else float(value)


def _significance(table: Table, line: pd.Series) -> str:
    """How the worst case stands to the best one of the table, in words."""
    if "worst_case" not in table.accuracies or _unknown(line["worst_case"]):
        return "There is no attack to compare by."
    if line.name in table.marks.incomparable:
        return f"{table.marks.incomparable[line.name]}: what differs is compared with no other row."
    p = line["worst_case_p_holm"]
    if not _unknown(p):
        text = f"exact McNemar test on the same {line['n']:,} images, Holm's {_p_value(float(p))}"
        if table.is_best(line, "worst_case"):
            return f"Shares the best worst case of this table ({text})."
        return f"{'Not significantly' if p >= SIGNIFICANT else 'Significantly'} below the best worst case ({text})."
    if table.is_best(line, "worst_case"):
        return "Has the best worst case of this table."
    if len(table.part) < 2:
        return "It is alone in this table; there is nothing to compare with."
    return "Not compared with the best: no other row has the same attacks on the same images and does better."


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _cost(line: pd.Series) -> list[tuple[str, str]]:
    counts = [(label, f"{line[name]:,}") for name, label in _COUNTS if not _unknown(line[name])]
    return [*counts, ("seconds", f"{line['seconds']:,.1f}")] if line["norm"] else []


def _training(line: pd.Series) -> list[tuple[str, str]]:
    """What the checkpoint tells of itself."""
    found = [("Method", line["method"]), ("Architecture", line["architecture"])]
    if line["parameters"]:
        found.append(("Parameters", f"{line['parameters']:,}"))
    if not _unknown(line["min_separation"]):
        found.append(("MinSep", f"{line['min_separation']:.2f}°"))
    if not _unknown(line["training_seconds"]):
        found.append(("Training", f"{line['training_seconds']:,.0f} s"))
    return [(label, text) for label, text in found if text]


def _unknown(value: Any) -> bool:
    return value is None or value is pd.NA or pd.isna(value) or value == ""


SECTION = Section(
    "leaderboard",
    "Leaderboard",
    "Leaderboard",
    "Accuracy in percent with 95 % Wilson intervals. The worst case counts an image as robust only if nothing broke "
    "it. Rows stand in one table only where data, threat model, seed and source of corruptions are the same.",
    _gather,
)
