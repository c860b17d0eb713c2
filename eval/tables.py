"""What is comparable side by side: a leaderboard cut into tables for people, before any markup."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from advdpnp.eval.columns import accuracy_columns
from advdpnp.eval.comparison import SIGNIFICANT
from advdpnp.eval.corruption_columns import MEAN


@dataclass(frozen=True)
class Table:
    """Models under one threat model on the same data.

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
        rivals = self.part
        if name == "worst_case":  # one over fewer attacks is no rival of one over all
            full = [each for each in self.accuracies if each != MEAN]
            rivals = rivals[rivals[full].notna().all(axis=1)]
        return len(self.part) > 1 and bool(row[name] == rivals[name].max())

    def is_as_good(self, row: pd.Series, name: str) -> bool:
        """Whether a worst case below the best one may be so by chance."""
        return name == "worst_case" and not self.is_best(row, name) and bool(row["worst_case_p"] >= SIGNIFICANT)

    @property
    def note(self) -> str:
        """What the mark of ``is_as_good`` means; "" where no row has it."""
        marked = any(self.is_as_good(row, "worst_case") for _, row in self.part.iterrows())
        return f"not significantly below the best (exact McNemar test, p >= {SIGNIFICANT})" if marked else ""

    @property
    def flags(self) -> list[str]:
        """Codes that any row raised, each once."""
        return list(dict.fromkeys(code for text in self.part["flags"] for code in text.split("; ") if code))


def cut_into_tables(frame: pd.DataFrame) -> Iterator[Table]:
    """One table per data set, threat model and seed."""
    for _, part in frame.groupby(["dataset", "data_hash", "norm", "eps", "seed"], dropna=False, sort=False):
        # Numbers on official images and on regenerated ones do not stand side by side.
        several = len(set(part["corruption_source"]) - {""}) > 1
        for shown in [each for _, each in part.groupby("corruption_source", sort=False)] if several else [part]:
            yield Table(_caption(shown), [name for name in accuracy_columns(shown) if shown[name].notna().any()], shown)


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
