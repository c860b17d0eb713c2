"""The leaderboard in Markdown."""

from collections.abc import Iterable, Sequence

import pandas as pd

from advdpnp.base.untrusted.columns import RESERVED
from advdpnp.base.untrusted.text import markdown
from advdpnp.eval.analysis.columns import is_distance
from advdpnp.eval.analysis.corruptions import GROUP_COLUMNS, MEAN, TYPE, corruption_notes, is_detail
from advdpnp.eval.diagnostics.texts import FLAGS
from advdpnp.eval.report.robustbench import is_published, published_grids
from advdpnp.eval.report.tables import Grid, Table, cut_into_tables, number, seed_grids, unmeasured_note

escape = markdown
"""Text of a user's or a stranger's, in a cell or outside of tables."""

_MARK, _INCOMPARABLE = "°", "†"


def head(name: str) -> str:
    """The name of a column above it: ours as it is, an attack's as text."""
    return name if name in RESERVED else escape(name)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[str] = ("flags",)) -> list[str]:
    """Lines of a table; the first column and ``words`` begin at the left, numbers end at the right."""
    rule = [":--" if head in (heads[0], *words) else "--:" for head in heads]
    return ["| " + " | ".join(heads) + " |", "|" + "|".join(rule) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def to_markdown(frame: pd.DataFrame) -> str:
    """One table per data set and threat model, the best of each column in bold, raised flags explained below.

    Then what several seeds say, and the published rows if the leaderboard has any.
    """
    measured = frame[~is_published(frame)]
    grids = [*seed_grids(measured), *published_grids(frame)]
    blocks = [*map(_block, cut_into_tables(measured)), *map(_grid, grids)]
    return "\n".join(blocks) if len(frame) else "No results.\n"


def _grid(grid: Grid) -> str:
    rows = [[*map(escape, row)] for row in grid.rows]
    for place, url in grid.links.items():
        rows[place][0] = f"[{rows[place][0]}]({url})"
    lines = ["", *table([*map(head, grid.heads)], rows, grid.words)] if grid.rows else []
    return "\n".join([f"**{escape(grid.caption)}**", *lines, *(f"\n{escape(note)}" for note in grid.notes)]) + "\n"


def _block(shown: Table) -> str:
    rows = []
    for place, row in shown.part.iterrows():
        cells = [_accuracy(shown, row, name) for name in shown.accuracies]
        mark = _INCOMPARABLE if place in shown.marks.incomparable else ""
        rows.append([escape(str(row["model"])) + mark, *cells, str(row["n"]), str(row["flags"])])
    lines = [f"**{escape(shown.caption)}**", "", *table(["model", *map(head, shown.accuracies), "n", "flags"], rows)]
    if shown.chance_note:
        lines += ["", f"{_MARK} {shown.chance_note}."]
    if shown.incomparable_note:
        lines += ["", f"{_INCOMPARABLE} {escape(shown.incomparable_note)}."]
    if shown.same_weights_note:
        lines += ["", f"{escape(shown.same_weights_note)}."]
    if note := unmeasured_note(shown.part):
        lines += ["", f"{escape(note[0].upper() + note[1:])}."]
    if shown.flags:
        meanings = ((code, FLAGS[code]) for code in shown.flags)
        lines += ["", *(f"- `{code}`: {each.explanation}. Remedy: {each.remedy}." for code, each in meanings)]
    return "\n".join([*lines, *_distances(shown.part), *_corruption_tables(shown.part)]) + "\n"


def _accuracy(shown: Table, row: pd.Series, name: str) -> str:
    text = number(row[name])
    if shown.is_best(row, name):
        return f"**{text}**"
    return f"{text}{_MARK}" if shown.not_significantly_worse(row, name) else text


def _distances(part: pd.DataFrame) -> list[str]:
    """Distances of minimum-norm attacks by model."""
    names = [str(name) for name in part if is_distance(str(name)) and part[name].notna().any()]
    if not names:
        return []
    heads = [escape(name.replace("_distance:", " distance of ")) for name in names]
    rows = ([escape(str(row["model"])), *(number(row[name], 4) for name in names)] for _, row in part.iterrows())
    return ["", *table(["model", *heads], rows)]


def _corruption_tables(part: pd.DataFrame) -> list[str]:
    """Models by group, with the mCE where a baseline was named, and types by model."""
    known = [str(name) for name in part if part[name].notna().any()]
    rows = part[part[[name for name in known if is_detail(name)]].notna().any(axis=1)]
    groups = [name for name in known if name in (MEAN, *GROUP_COLUMNS, "mce")]
    types = [name for name in known if name.startswith(TYPE)]
    lines: list[str] = []
    if len(groups) > 1:
        heads = [name.removeprefix(f"{MEAN}_") for name in groups]
        if "mce" in groups:
            heads[groups.index("mce")] = f"mCE against {escape(part['mce_baseline'].iloc[0])}"
        by_model = ([escape(str(row["model"])), *(number(row[name]) for name in groups)] for _, row in rows.iterrows())
        lines += ["", *table(["model", *heads], by_model)]
    for note in corruption_notes(part):
        lines += ["", escape(note)]
    if types:
        models = [escape(str(name)) for name in rows["model"]]
        by_type = ([escape(name.removeprefix(TYPE)), *map(number, rows[name])] for name in types)
        lines += ["", *table(["mean of five severities", *models], by_type)]
    return lines
