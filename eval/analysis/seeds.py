"""Several seeds: how much accuracies vary between nets that were trained alike, and between runs of a random attack.

Nets are trained alike if method, architecture and recipe are the same and only the seed is not, as their checkpoints
say. Older results, whose checkpoints do not say it, and nets from elsewhere go by their names: ``NAME-s0``, ``NAME-s1``
with the same method and architecture. Two nets of one seed (``best`` and ``last`` of a run) are never compared.
"""

import re
from collections.abc import Hashable, Iterator
from typing import Any

import pandas as pd

from advdpnp.base.statistics import welch
from advdpnp.eval.analysis.columns import accuracy_columns
from advdpnp.eval.analysis.comparability import comparison_key_of_line
from advdpnp.eval.analysis.corruptions import MEAN

TRAINING, EVALUATION = "training seeds", "evaluation seeds"
"""What a row of the summary is over: nets of one recipe, or attacks on one net."""

_STATISTICS = ("mean", "std", "min", "max")
DIFFERENCES = ("difference", "difference_low", "difference_high", "difference_p")
JUDGED = ["dataset", "data_hash", "norm", "eps", "eps_text", "samples_hash", "n"]
_NAME = re.compile(r"(?P<before>.+)-s(?P<seed>\d+)(?P<after>-last)?")


def summarise_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation (ddof 1), smallest and largest accuracy of every two or more seeds that belong together.

    Methods of two or more training seeds under the same question are compared with the one of the best mean worst case:
    difference of means with Welch's t interval over seeds, not corrected for the number of comparisons.

    Args:
        frame: a leaderboard.

    Returns:
        One row per group, columns ``over, group, method, architecture, seeds`` (their number), then per accuracy
        ``_mean, _std, _min, _max``, then ``against`` and per accuracy ``_difference`` with ``_low, _high, _p``, then
        what the accuracies are of. Percent with 2 decimals. No row where no two seeds belong together.
    """
    if frame.empty:
        return pd.DataFrame()
    names = [name for name in accuracy_columns(frame) if frame[name].notna().any()]
    frame = frame.assign(_asked=[str(comparison_key_of_line(row, "worst_case")) for _, row in frame.iterrows()])
    records = [*_over_training(frame, names), *_over_evaluation(frame, names)]
    columns = [
        "over", "group", "method", "architecture", "seeds", "seed_values", "models",
        *(f"{name}_{each}" for name in names for each in _STATISTICS), "against",
        *(f"{name}_{each}" for name in names for each in DIFFERENCES), *JUDGED, "seed", "recipe_hash",
    ]  # fmt: skip
    return pd.DataFrame(records, columns=columns) if records else pd.DataFrame()


def _over_training(frame: pd.DataFrame, names: list[str]) -> Iterator[dict[str, Any]]:
    for _, part in frame.groupby(["dataset", "data_hash", "norm", "eps", "seed", "_asked"], dropna=False, sort=False):
        groups = _trained_alike(part)
        labels = _labels([part.loc[list(group)] for group in groups])
        records = []
        for label, group in zip(labels, groups, strict=True):
            rows = part.loc[list(group)]
            values = [str(seed) for seed in group.values()]
            records.append(_record(TRAINING, label, rows, values, names))
        _compare([part.loc[list(group)] for group in groups], records, names)
        yield from records


def _over_evaluation(frame: pd.DataFrame, names: list[str]) -> Iterator[dict[str, Any]]:
    keys = ["model", "weights_hash", "dataset", "data_hash", "norm", "eps", "_asked"]
    for _, part in frame[frame["seed"].notna()].groupby(keys, sort=False):
        rows = part.drop_duplicates("seed")
        if len(rows) > 1:
            record = _record(EVALUATION, rows["model"].iloc[0], rows, rows["seed"].astype(str).tolist(), names)
            yield record | {"seed": pd.NA}


def _trained_alike(part: pd.DataFrame) -> list[dict[Hashable, int]]:
    """Places in the frame and seeds of training of the nets that belong together, two or more each."""
    groups: dict[tuple[str, ...], dict[Hashable, int]] = {}
    for place, row in part.iterrows():
        stem, seed = _by_name(row["model"])
        known = row["recipe_hash"] != "" and pd.notna(row["training_seed"])
        key = ("recipe", row["recipe_hash"]) if known else ("name", stem)
        if known or seed is not None:
            number = int(row["training_seed"]) if known else int(seed or 0)
            groups.setdefault((*key, row["method"], row["architecture"]), {})[place] = number
    apart, names = [], dict(zip(part.index, part["model"], strict=True))
    for group in groups.values():
        if len(set(group.values())) == len(group):
            apart.append(group)
            continue
        by_stem: dict[str, dict[Hashable, int]] = {}
        for place, number in group.items():
            by_stem.setdefault(_by_name(names[place])[0], {})[place] = number
        apart += [each for each in by_stem.values() if len(set(each.values())) == len(each)]
    return [dict(sorted(group.items(), key=lambda item: item[1])) for group in apart if len(group) > 1]


def _by_name(name: str) -> tuple[str, int | None]:
    """A name without its seed, and the seed; the name itself and None where it has none."""
    match = _NAME.fullmatch(name)
    return (match["before"] + (match["after"] or ""), int(match["seed"])) if match else (name, None)


def _labels(groups: list[pd.DataFrame]) -> list[str]:
    """Names of groups: the name that their nets share, else the method; with the recipe where two would be equal."""
    labels = []
    for rows in groups:
        stems = {_by_name(name)[0] for name in rows["model"]}
        first = rows.iloc[0]
        labels.append(stems.pop() if len(stems) == 1 else first["method"] or first["architecture"])
    return [
        f"{label} ({rows['recipe_hash'].iloc[0]})" if labels.count(label) > 1 else label
        for label, rows in zip(labels, groups, strict=True)
    ]


def _record(over: str, label: str, rows: pd.DataFrame, values: list[str], names: list[str]) -> dict[str, Any]:
    first = rows.iloc[0]
    record: dict[str, Any] = {
        "over": over,
        "group": label,
        "method": first["method"],
        "architecture": first["architecture"],
        "seeds": len(rows),
        "seed_values": " ".join(values),
        "models": "; ".join(dict.fromkeys(rows["model"])),
        "against": "",
        "seed": first["seed"],
        "recipe_hash": first["recipe_hash"],
        **{name: first[name] for name in JUDGED},
    }
    for name in names:
        if _all_comparable(rows, name):
            found = rows[name].agg(list(_STATISTICS))
            record |= {f"{name}_{each}": round(float(found[each]), 2) for each in _STATISTICS}
    return record


def _compare(groups: list[pd.DataFrame], records: list[dict[str, Any]], names: list[str]) -> None:
    """Add to all records but the best how far they are from it, and to all of them which one that is."""
    best = max(
        range(len(groups)),
        key=lambda i: records[i].get("worst_case_mean", records[i].get("clean_mean", -1)),
        default=0,
    )
    if len(groups) < 2:
        return
    for rows, record in zip(groups, records, strict=True):
        record["against"] = records[best]["group"]
        if record is records[best]:
            continue
        for name in names:
            if _all_comparable(pd.concat([rows, groups[best]]), name):
                found = welch(rows[name].tolist(), groups[best][name].tolist())
                for each, value in zip(DIFFERENCES, (*found[:3], found.p), strict=True):
                    record[f"{name}_{each}"] = round(value, 6 if each.endswith("_p") else 2)


def _all_comparable(rows: pd.DataFrame, name: str) -> bool:
    """Whether every row has the column, and all by the same definition."""
    if rows[name].isna().any():
        return False
    return name != MEAN or len({comparison_key_of_line(row, name) for _, row in rows.iterrows()}) == 1
