"""What is comparable side by side: a leaderboard cut into tables for people, before any markup."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from advdpnp.eval.analysis.comparability import SIGNIFICANT
from advdpnp.eval.analysis.corruptions import MEAN
from advdpnp.eval.report.schema import accuracy_columns


@dataclass(frozen=True)
class Table:
    """Models under one threat model on the same data.

    Only numbers that answer the same question about the same images are compared: of each column those that most rows
    share. A row whose number is of another kind is neither best nor as good, and ``incomparable`` says why.

    Attributes:
        caption: data, threat model, n, seed and source of corruptions.
        accuracies: names of the columns in percent.
        part: the rows of the leaderboard.
    """

    caption: str
    accuracies: list[str]
    part: pd.DataFrame

    def is_best(self, row: pd.Series, name: str) -> bool:
        """Whether a row has the best of a column; one row alone has no rivals."""
        rivals = self._compared[name]
        if len(rivals) < 2 or row.name not in rivals:
            return False
        return bool(row[name] == self.part.loc[rivals, name].max())

    def not_significantly_worse(self, row: pd.Series, name: str) -> bool:
        """Whether a worst case below the best one may be so by chance."""
        if name not in self._compared or row.name not in self._compared[name] or self.is_best(row, name):
            return False
        return name == "worst_case" and bool(row["worst_case_p_holm"] >= SIGNIFICANT)

    @property
    def note(self) -> str:
        """What the mark of ``not_significantly_worse`` means; "" where no row has it."""
        marked = any(self.not_significantly_worse(row, "worst_case") for _, row in self.part.iterrows())
        return f"not significantly below the best (exact McNemar test, Holm's p >= {SIGNIFICANT})" if marked else ""

    @cached_property
    def incomparable(self) -> dict[object, str]:
        """Why some numbers of a row are compared with no other, by the row's place in the leaderboard."""
        reasons = {}
        for place, row in self.part.iterrows():
            if reason := self._why_stranger(row):
                reasons[place] = f"{row['model']} {reason}"
        return reasons

    @property
    def stranger_note(self) -> str:
        """All of ``incomparable`` in one line; "" if there are none."""
        return (
            f"numbers that are compared with no other: {'; '.join(self.incomparable.values())}"
            if self.incomparable
            else ""
        )

    @property
    def flags(self) -> list[str]:
        """Codes that any row raised, each once."""
        return list(dict.fromkeys(code for text in self.part["flags"] for code in text.split("; ") if code))

    @cached_property
    def _compared(self) -> dict[str, list[Any]]:
        """By column, the rows that are compared: the largest group of one kind, then of most images and attacks."""
        chosen: dict[str, list[Any]] = {}
        for name in self.accuracies:
            groups: dict[object, list[Any]] = {}
            for place, row in self.part[self.part[name].notna()].iterrows():
                groups.setdefault(kind_of(row, name), []).append(place)
            chosen[name] = max(groups.values(), key=self._weight)
        return chosen

    def _weight(self, places: list[Any]) -> tuple[int, int, int]:
        first = self.part.loc[places[0]]
        return len(places), int(first["n"]), len(definitions_of(first))

    def _why_stranger(self, row: pd.Series) -> str:
        if row.name not in self._compared["clean"]:
            return f"was judged on other images than the rest (n = {row['n']})"
        odd = [name for name in self.accuracies if pd.notna(row[name]) and row.name not in self._compared[name]]
        defined = set(definitions_of(row)) - {MEAN}
        rivals = self._compared.get("worst_case", [])
        other = bool(rivals) and defined != set(definitions_of(self.part.loc[rivals[0]])) - {MEAN}
        if "worst_case" in odd and other:
            odd.remove("worst_case")
            words = ["has a worst_case over other attacks than the rest"]
        else:
            words = []
        elsewhere = [
            name for name in odd if row["samples_hash"] != self.part.loc[self._compared[name][0], "samples_hash"]
        ]
        if elsewhere:
            words.append(f"has {', '.join(elsewhere)} on other images than the rest (n = {row['n']})")
        if other_way := [name for name in odd if name not in elsewhere]:
            words.append(f"has {', '.join(other_way)} by another definition than the rest")
        return " and ".join(words)


def unmeasured_note(part: pd.DataFrame) -> str:
    """Which rows of a leaderboard no flag could be raised for but by their verdicts; "" if none."""
    names = list(dict.fromkeys(part.loc[part["sanity_n"] == 0, "model"]))
    if not names:
        return ""
    return (
        f"sanity checks were not measured for {', '.join(map(str, names))}, so flags may be missing; the same "
        "evaluation again makes up for them"
    )


@dataclass(frozen=True)
class Grid:
    """A plain table of words.

    Attributes:
        caption: what it shows.
        heads: of the columns.
        rows: cells, as many as heads in each.
        words: heads of columns that hold words, which begin at the left; the first one always does.
        notes: sentences below it.
    """

    caption: str
    heads: list[str]
    rows: list[list[str]]
    words: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def definitions_of(row: pd.Series) -> dict[str, str]:
    """Hash of what was asked, by attack, and by "corruptions" for these."""
    return dict(json.loads(row["attack_definitions"] or "{}"))


def kind_of(row: pd.Series, column: str) -> tuple[object, ...]:
    """Equal for rows of one table whose numbers in a column can be compared."""
    definitions = definitions_of(row)
    if column == MEAN:
        return (definitions.get(MEAN),)
    definitions.pop(MEAN, None)
    asked = sorted(definitions.items()) if column == "worst_case" else [(column, definitions.get(column))]
    return (row["samples_hash"], *asked)


def cut_into_tables(frame: pd.DataFrame) -> Iterator[Table]:
    """One table per data set, threat model and seed."""
    for _, part in frame.groupby(["dataset", "data_hash", "norm", "eps", "seed"], dropna=False, sort=False):
        # Numbers on official images and on regenerated ones do not stand side by side.
        several = len(set(part["corruption_source"]) - {""}) > 1
        for shown in [each for _, each in part.groupby("corruption_source", sort=False)] if several else [part]:
            yield Table(_caption(shown), [name for name in accuracy_columns(shown) if shown[name].notna().any()], shown)


def threat_words(row: pd.Series) -> str:
    """ "linf eps 8/255", or that there is none."""
    return f"{row['norm']} eps {row['eps_text']}" if row["norm"] else "clean images only"


def _caption(part: pd.DataFrame) -> str:
    first = part.iloc[0]
    sizes = sorted(set(part["n"].tolist()))
    n = (
        f"n = {sizes[0]}"
        if len(sizes) == 1
        else f"n = {sizes[0]} to {sizes[-1]}: rows of different n are not comparable"
    )
    seed = "" if pd.isna(first["seed"]) else f", seed {first['seed']}"
    source = next((s for s in part["corruption_source"] if s), "")
    corruptions = f", corruptions: {source}" if source else ""
    return f"{first['dataset']}, {threat_words(first)}, {n}{seed}{corruptions}; accuracy in percent"
