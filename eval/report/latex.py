"""The leaderboard for a paper: tables in LaTeX, which need the package booktabs."""

from collections.abc import Iterable, Sequence

import pandas as pd

from advdpnp.eval.report.robustbench import is_published, published_grids
from advdpnp.eval.report.tables import Grid, Table, cut_into_tables, number, seed_grids

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "–": "--",
}  # fmt: skip


def to_latex(frame: pd.DataFrame) -> str:
    """One table environment per data set, threat model and seed; the best of each column in bold."""
    measured = frame[~is_published(frame)]
    grids = [grid for grid in (*seed_grids(measured), *published_grids(frame)) if grid.rows]
    return "\n".join([*map(_environment, cut_into_tables(measured)), *map(_plain, grids)])


def _plain(grid: Grid) -> str:
    columns = "".join("l" if head in (grid.heads[0], *grid.words) else "r" for head in grid.heads)
    rows = [[_escape(cell) for cell in row] for row in grid.rows]
    caption = " ".join(f"{_escape(_sentence(text))}." for text in (grid.caption, *grid.notes))
    return _wrapped(caption, columns, grid.heads, rows)


def _environment(table: Table) -> str:
    caption = f"{_escape(_sentence(table.caption))}."
    caption += rf" $^\circ$: {_escape(table.chance_note)}." if table.chance_note else ""
    caption += rf" $^\dagger$: {_escape(table.incomparable_note)}." if table.incomparable_note else ""
    rows = []
    for place, row in table.part.iterrows():
        cells = [_escape(str(row["model"])) + (r"$^\dagger$" if place in table.marks.incomparable else "")]
        for name in table.accuracies:
            text = _escape(number(row[name]))
            mark = r"$^\circ$" if table.not_significantly_worse(row, name) else ""
            cells.append(rf"\textbf{{{text}}}" if table.is_best(row, name) else f"{text}{mark}")
        rows.append(cells + ([_escape(str(row["flags"]))] if table.flags else []))
    columns = f"l{'r' * len(table.accuracies)}{'l' if table.flags else ''}"
    return _wrapped(caption, columns, ["model", *table.accuracies, *(["flags"] if table.flags else [])], rows)


def _wrapped(caption: str, columns: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table environment; caption and cells are escaped already."""
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{caption}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        f"    {' & '.join(_escape(head.replace('_', ' ')) for head in heads)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(cells)} \\\\" for cells in rows),
    ]
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])


def _sentence(text: str) -> str:
    """With a capital letter and without a full stop."""
    return text[:1].upper() + text[1:].rstrip(".")


def _escape(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)
