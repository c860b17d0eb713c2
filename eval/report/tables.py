"""What is comparable side by side: a leaderboard cut into tables for people, before any markup."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from advdpnp.base.statistics import SIGNIFICANT
from advdpnp.eval.analysis.columns import accuracy_columns
from advdpnp.eval.analysis.comparability import Marks, mark
from advdpnp.eval.analysis.seeds import DIFFERENCES, JUDGED, TRAINING, summarise_seeds


def number(value: float | None, digits: int = 2) -> str:
    """A number for people; a dash for what is not known."""
    return "–" if value is None or pd.isna(value) else f"{value:.{digits}f}"


@dataclass(frozen=True)
class Table:
    """Models under one threat model on the same data.

    Attributes:
        caption: data, threat model, n, seed and source of corruptions.
        accuracies: names of the columns in percent.
        part: the lines of the leaderboard.
    """

    caption: str
    accuracies: list[str]
    part: pd.DataFrame

    @cached_property
    def marks(self) -> Marks:
        """Which numbers are the best, which may be as good, and which are compared with no other."""
        return mark(self.part, self.accuracies)

    def is_best(self, line: pd.Series, name: str) -> bool:
        """Whether a line has the best number of a column."""
        return line.name in self.marks.best[name]

    def not_significantly_worse(self, line: pd.Series, name: str) -> bool:
        """Whether a number is a worst case that may be below the best one by chance."""
        return name == "worst_case" and line.name in self.marks.not_significantly_worse

    def rank(self, line: pd.Series) -> int | None:
        """Place by worst case among the lines that are compared; equal ones share it. None for the others."""
        place = self._places.get(line.name)
        return None if place is None or pd.isna(place) else int(place)

    @cached_property
    def _places(self) -> pd.Series:
        if "worst_case" not in self.accuracies:
            return pd.Series(dtype=float)
        compared = self.part.drop(index=list(self.marks.incomparable))["worst_case"]
        return compared.rank(method="min", ascending=False)

    @property
    def chance_note(self) -> str:
        """What the mark of ``not_significantly_worse`` means; "" where no line has it."""
        if not self.marks.not_significantly_worse:
            return ""
        return f"not significantly below the best (exact McNemar test, Holm's p >= {SIGNIFICANT})"

    @property
    def incomparable_note(self) -> str:
        """All of ``marks.incomparable`` in one line; "" if there are none."""
        reasons = "; ".join(self.marks.incomparable.values())
        return f"numbers that are compared with no other: {reasons}" if reasons else ""

    @property
    def same_weights_note(self) -> str:
        """Which lines are of one net under several names; "" if none are."""
        names = self.part.groupby("weights_hash", sort=False)["model"].unique()
        return "; ".join(f"{' and '.join(each)} have the same weights" for each in names if len(each) > 1)

    @property
    def flags(self) -> list[str]:
        """Codes that any line raised, each once."""
        return list(dict.fromkeys(code for text in self.part["flags"] for code in text.split("; ") if code))


def unmeasured_note(part: pd.DataFrame) -> str:
    """Which rows of a leaderboard no flag could be raised for but by their verdicts; "" if none."""
    names = list(dict.fromkeys(part.loc[part["sanity_n"] == 0, "model"]))
    if not names:
        return ""
    return (
        f"sanity checks were not measured for {', '.join(map(str, names))}, so flags may be missing; the same "
        "evaluation again, without --no-sanity, makes up for them"
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
        links: address of the paper behind a row, by the number of the row.
    """

    caption: str
    heads: list[str]
    rows: list[list[str]]
    words: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    links: dict[int, str] = field(default_factory=dict)


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
    which = set(part["samples"])
    n = (
        f"n = {sizes[0]}" + (f" ({which.pop()})" if len(which) == 1 else "")
        if len(sizes) == 1
        else f"n = {sizes[0]} to {sizes[-1]}: rows of different n are not comparable"
    )
    seed = "" if pd.isna(first["seed"]) else f", seed {first['seed']}"
    source = next((s for s in part["corruption_source"] if s), "")
    corruptions = f", corruptions: {source}" if source else ""
    return f"{first['dataset']}, {threat_words(first)}, {n}{seed}{corruptions}; accuracy in percent"


def seed_grids(frame: pd.DataFrame) -> Iterator[Grid]:
    """The summary of a leaderboard as tables for people, one per question and kind of seed."""
    summary = summarise_seeds(frame)
    if summary.empty:
        return
    names = [column.removesuffix("_mean") for column in map(str, summary) if column.endswith("_mean")]
    for (over, *_), part in summary.groupby(["over", *JUDGED, "seed"], dropna=False, sort=False):
        shown = [name for name in names if part[f"{name}_mean"].notna().any()]
        first = part.iloc[0]
        seed = f", attacks of seed {first['seed']}" if over == TRAINING and pd.notna(first["seed"]) else ""
        what = "several nets of one recipe" if over == TRAINING else "one net, attacked again"
        judged = f"{first['dataset']}, {threat_words(first)}, n = {first['n']}{seed}"
        caption = f"{judged}; mean ± standard deviation over {over} ({what}); accuracy in percent"
        rows = [
            [str(row["group"]), str(row["seeds"]), *(_spread(row, name) for name in shown)]
            for _, row in part.iterrows()
        ]
        yield Grid(caption, ["group", "seeds", *shown], rows)
        if first["against"]:
            yield _differences(part, shown, judged)


def _spread(row: pd.Series, name: str) -> str:
    mean, spread = row[f"{name}_mean"], row[f"{name}_std"]
    return "–" if pd.isna(mean) else f"{mean:.2f} ± {spread:.2f}"


def _differences(part: pd.DataFrame, names: list[str], judged: str) -> Grid:
    """A line for each group and accuracy: a line for each group would be wider than a page."""
    against = part["against"].iloc[0]
    rows = []
    for _, row in part[part["group"] != against].iterrows():
        for name in names:
            value, low, high, p = (row[f"{name}_{each}"] for each in DIFFERENCES)
            spread = ["–", "–"] if pd.isna(p) else [f"{low:+.2f} to {high:+.2f}", f"{p:.2f}"]
            difference = "–" if pd.isna(value) else f"{value:+.2f}"
            rows.append([str(row["group"]), str(row["seeds"]), name, difference, *spread])
    k = part.loc[part["group"] == against, "seeds"].iloc[0]
    caption = f"{judged}; difference of the means to {against} ({k} seeds) in points, with Welch's 95 % interval"
    note = "So few seeds show large differences only; p is not corrected for the number of comparisons."
    heads = ["group", "seeds", "accuracy", "difference", "95 % interval", "p"]
    return Grid(caption, heads, rows, ("accuracy",), notes=[note])
