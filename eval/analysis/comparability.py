"""Which numbers may be compared: those that answer the same question about the same images."""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from advdpnp.base.statistics import SIGNIFICANT
from advdpnp.eval.analysis.corruptions import MEAN
from advdpnp.eval.analysis.rows import Row


def comparison_key(row: Row, column: str) -> tuple[object, ...]:
    """Equal for two rows of one data set, threat model and seed whose numbers in a column can be compared."""
    return _key(row.samples_hash, row.comparison_keys, column)


def comparison_key_of_line(line: pd.Series, column: str) -> tuple[object, ...]:
    """The same for a line of a leaderboard."""
    return _key(line["samples_hash"], _questions(line), column)


def why_incomparable(a: Row, b: Row) -> str:
    """Why no number of two rows can be compared: other images, threat model or seed; "" if they can be."""
    if a.data != b.data:
        return f"they were judged on different data ({_data(a)} and {_data(b)})"
    if (a.threat.norm, a.threat.eps) != (b.threat.norm, b.threat.eps) and (a.attacks or b.attacks):
        return f"their threat models differ ({a.threat.label} and {b.threat.label})"
    if a.seed != b.seed:
        return f"their attacks were seeded differently ({a.seed} and {b.seed})"
    if a.samples_hash != b.samples_hash:
        return f"they were judged on different images ({a.n} and {b.n} of {a.dataset})"
    return ""


def why_column_incomparable(a: Row, b: Row, column: str) -> str:
    """Why one column, which both rows have, cannot be compared though the rows can; "" if it can be."""
    if comparison_key(a, column) == comparison_key(b, column):
        return ""
    if column == "worst_case":
        if set(a.attacks) != set(b.attacks):
            return f"worst_case is over different attacks ({', '.join(a.attacks)} and {', '.join(b.attacks)})"
        return next(why for attack in a.attacks if (why := why_column_incomparable(a, b, attack)))
    if column == MEAN:
        if a.corruption_source != b.corruption_source:
            return f"their corrupted images differ ({a.corruption_source} and {b.corruption_source})"
        return "their corruptions are of other types, seeds or versions, or of other images"
    return f"'{column}' was not the same attack for both (other settings, package, precision or version)"


@dataclass(frozen=True)
class Marks:
    """What stands out among the lines of one table. Lines go by their index in the leaderboard.

    In each column the largest group of lines with one comparison key is compared; of equally large groups, the one of
    most images, then of most attacks.

    Attributes:
        best: by column, the lines with the highest number; none where there is nothing to compare with.
        not_significantly_worse: lines whose worst case may be below the best one by chance.
        incomparable: why some numbers of a line are compared with no other, by line.
    """

    best: Mapping[str, set[Hashable]]
    not_significantly_worse: set[Hashable]
    incomparable: Mapping[Hashable, str]


def mark(part: pd.DataFrame, accuracies: Sequence[str]) -> Marks:
    """Compare the lines of a leaderboard that share data, threat model and seed.

    Args:
        part: these lines.
        accuracies: the columns to compare, each with a number in at least one line.
    """
    compared = {name: _largest_group(part, name) for name in accuracies}
    best = {name: _best(part.loc[group, name]) for name, group in compared.items()}
    rivals = set(compared.get("worst_case", [])) - best.get("worst_case", set())
    by_chance = rivals & set(part.index[part["worst_case_p_holm"] >= SIGNIFICANT])
    reasons = {
        index: f"{line['model']} {reason}"
        for index, line in part.iterrows()
        if (reason := _why_left_out(line, part, compared))
    }
    return Marks(best, by_chance, reasons)


def _key(samples: str, questions: Mapping[str, str], column: str) -> tuple[object, ...]:
    if column == MEAN:
        return (questions.get(MEAN),)  # its hash covers the images too
    if column == "worst_case":
        return (samples, *sorted((attack, asked) for attack, asked in questions.items() if attack != MEAN))
    return (samples, (column, questions.get(column)))


def _questions(line: pd.Series) -> dict[str, str]:
    return dict(json.loads(line["attack_definitions"] or "{}"))


def _largest_group(part: pd.DataFrame, name: str) -> list[Any]:
    groups: dict[object, list[Any]] = {}
    for index, line in part[part[name].notna()].iterrows():
        groups.setdefault(comparison_key_of_line(line, name), []).append(index)

    def weight(group: list[Any]) -> tuple[int, int, int]:
        first = part.loc[group[0]]
        return len(group), int(first["n"]), len(_questions(first))

    return max(groups.values(), key=weight)


def _best(values: pd.Series) -> set[Hashable]:
    return set(values.index[values == values.max()]) if len(values) > 1 else set()


def _why_left_out(line: pd.Series, part: pd.DataFrame, compared: Mapping[str, list[Any]]) -> str:
    """Why some numbers of a line are compared with no other; "" if all are compared."""
    if line.name not in compared["clean"]:
        return f"was judged on other images than the rest (n = {line['n']})"
    odd = [name for name, group in compared.items() if pd.notna(line[name]) and line.name not in group]
    reasons = []
    if "worst_case" in odd and _attacks(line) != _attacks(part.loc[compared["worst_case"][0]]):
        odd.remove("worst_case")
        reasons.append("has a worst_case over other attacks than the rest")
    samples = {name: part.at[compared[name][0], "samples_hash"] for name in odd}
    if other_images := [name for name in odd if line["samples_hash"] != samples[name]]:
        reasons.append(f"has {', '.join(other_images)} on other images than the rest (n = {line['n']})")
    if redefined := [name for name in odd if name not in other_images]:
        reasons.append(f"has {', '.join(redefined)} by another definition than the rest")
    return " and ".join(reasons)


def _attacks(line: pd.Series) -> set[str]:
    return set(_questions(line)) - {MEAN}


def _data(row: Row) -> str:
    return f"{row.dataset} {row.data[:8]}"
