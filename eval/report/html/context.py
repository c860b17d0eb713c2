"""What a page is about: the table, the verdicts behind it, and the models that both are of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import pandas as pd

from advdpnp.base.plotting import Look, looks
from advdpnp.eval.analysis.columns import row_key
from advdpnp.eval.analysis.rows import Row
from advdpnp.eval.diagnostics.flag import Flag
from advdpnp.eval.report.figures import best_rows, with_distinct_names
from advdpnp.eval.report.leaderboard import Flags, flags_of
from advdpnp.eval.report.robustbench import is_published
from advdpnp.eval.report.tables import Table, cut_into_tables

SHOWN = 100
"""Rows of each threat model that the page shows at once: more come on demand, in the leaderboard alone."""


@dataclass(frozen=True)
class Model:
    """One model of the page.

    Attributes:
        number: its place among the models, which elements of the page name it by.
        name: no other model of the page has it.
        method, architecture: as tables show them.
        parameters: their number.
        flagged: whether any of its rows raised a flag.
        look: its colour and its mark, as in the figures.
    """

    number: int
    name: str
    method: str
    architecture: str
    parameters: int
    flagged: bool
    look: Look

    @property
    def colour(self) -> int:
        """Place in the palette."""
        return self.look.colour


@dataclass(frozen=True)
class PageContext:
    """Everything that sections draw from.

    Attributes:
        everything: the leaderboard, as ``tabulate_rows`` makes it of ``rows``, and published rows if it has any.
        rows: the verdicts.
        folders: where they were found; geometry is looked for there.
        flags: of the rows; None where nobody has raised them yet.
    """

    everything: pd.DataFrame
    rows: Sequence[Row]
    folders: Sequence[Path] = ()
    flags: Flags | None = None

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The leaderboard of ``rows`` alone."""
        return self.everything[~is_published(self.everything)]

    @cached_property
    def all_named_rows(self) -> list[Row]:
        """The rows, with names that differ where the weights do."""
        return with_distinct_names(self.rows)

    @cached_property
    def named_rows(self) -> list[Row]:
        """The same that sections show beside the leaderboard: of each threat model the best ``SHOWN``."""
        return best_rows(self.all_named_rows, SHOWN)

    @property
    def left_out(self) -> int:
        """How many rows are in the leaderboard alone."""
        return len(self.rows) - len(self.named_rows)

    @cached_property
    def models(self) -> list[Model]:
        """All models, by name."""
        known = {(row.model.name, row.model.weights_hash): row.model for row in self.all_named_rows}
        flagged = set(self.frame.loc[self.frame["flags"] != "", "weights_hash"])
        drawn = looks({name: each.method for (name, _), each in known.items()})
        return [
            Model(number, name, each.method, each.architecture, each.parameters, weights in flagged, drawn[name])
            for number, ((name, weights), each) in enumerate(sorted(known.items()))
        ]

    @cached_property
    def _by_name(self) -> dict[str, Model]:
        return {model.name: model for model in self.models}

    def model_of(self, row: Row) -> Model:
        """The model of one of ``named_rows``."""
        return self._by_name[row.model.name]

    @cached_property
    def _rows_by_key(self) -> dict[tuple[str, ...], Row]:
        named = zip(self.rows, self.all_named_rows, strict=True)
        return {row.key: with_name for row, with_name in named}

    def row_of(self, line: pd.Series) -> Row:
        """The verdicts behind a line of the frame."""
        return self._rows_by_key[row_key(line)]

    @cached_property
    def _flags(self) -> Flags:
        return flags_of(self.rows) if self.flags is None else self.flags

    def flags_of(self, line: pd.Series) -> Sequence[Flag]:
        """The flags that a line of the frame raised."""
        return self._flags[row_key(line)]

    @cached_property
    def tables(self) -> list[Table]:
        """The frame cut into what is comparable; tables of clean images alone come last."""
        tables = cut_into_tables(self.frame) if len(self.frame) else ()
        return sorted(tables, key=lambda table: table.part["norm"].iloc[0] == "")

    def rows_of(self, table: Table) -> list[Row]:
        """The verdicts behind a table, in its order."""
        return [self.row_of(line) for _, line in table.part.iterrows()]

    def groups(self) -> Iterator[tuple[Table, list[Row]]]:
        """Tables of attacked models and the rows behind them.

        Rows that differ only in where their corrupted images came from are comparable here, so they come together.
        """
        shown = {row.key for row in self.named_rows}
        found_rows = ((table, [row for row in self.rows_of(table) if row.key in shown]) for table in self.tables)
        attacked = [(table, rows) for table, rows in found_rows if rows]

        def key(pair: tuple[Table, list[Row]]) -> tuple[str, ...]:
            first = pair[1][0]
            return first.dataset, *first.key[2:]

        for _, group in groupby((pair for pair in attacked if pair[1][0].attacks), key):
            found = list(group)
            yield found[0][0], [row for _, rows in found for row in rows]


@dataclass(frozen=True)
class Scope:
    """What a block of the page is restricted to; readers choose among them.

    Attributes:
        dataset: its name.
        threat: "linf 8/255", or "" for what holds whatever the threat model.
        seed: of the attacks, where it matters.
        n: how many images, in words.
        extra: more to say, as corruptions' source.
        mixed: whether the rows are over different numbers of images.
    """

    dataset: str
    threat: str = ""
    seed: str = ""
    n: str = ""
    extra: str = ""
    mixed: bool = False


def choices(models: Sequence[Model]) -> list[tuple[int | None, str]]:
    """What a reader chooses among, as number and text; the number ties a choice to the filter."""
    return [(model.number, model.name) for model in models]


def scope_of(rows: Sequence[Row], *, threat: bool = True, extra: str = "") -> Scope:
    """The scope of rows that share data, and threat model and seed unless ``threat`` is off."""
    first = rows[0]
    sizes = sorted({row.n for row in rows})
    n = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    mixed, which = len(sizes) > 1, {row.samples_text for row in rows}
    n += f" ({which.pop()})" if len(which) == 1 else ""
    if not threat:
        return Scope(first.dataset, n=n, extra=extra, mixed=mixed)
    label = in_words(first.threat.norm, first.threat.eps_text)
    return Scope(first.dataset, label, "" if first.seed is None else str(first.seed), n, extra, mixed)


def in_words(norm: str, eps: str) -> str:
    """ "Linf 8/255", or "clean images"."""
    return f"{norm.capitalize()} {eps}" if norm else "clean images"
