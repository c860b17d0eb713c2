"""The leaderboard for a paper: tables in LaTeX, which need the package booktabs."""

import pandas as pd

from advdpnp.eval.tables import Table, cut_into_tables

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def to_latex(frame: pd.DataFrame) -> str:
    """One table environment per data set, threat model and seed; the best of each column in bold."""
    return "\n".join(_environment(table) for table in cut_into_tables(frame))


def _environment(table: Table) -> str:
    note = rf" $^\circ$: {_escape(table.note)}." if table.note else ""
    heads = ["model", *(name.replace("_", " ") for name in table.accuracies), *(["flags"] if table.flags else [])]
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_escape(table.caption[:1].upper() + table.caption[1:])}.{note}}}",
        rf"  \begin{{tabular}}{{l{'r' * len(table.accuracies)}{'l' if table.flags else ''}}}",
        r"    \toprule",
        f"    {' & '.join(map(_escape, heads))} \\\\",
        r"    \midrule",
    ]
    for _, row in table.part.iterrows():
        cells = [_escape(str(row["model"]))]
        for name in table.accuracies:
            text = "--" if pd.isna(row[name]) else f"{row[name]:.2f}"
            mark = r"$^\circ$" if table.is_as_good(row, name) else ""
            cells.append(rf"\textbf{{{text}}}" if table.is_best(row, name) else f"{text}{mark}")
        cells += [_escape(str(row["flags"]))] if table.flags else []
        lines.append(f"    {' & '.join(cells)} \\\\")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])


def _escape(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)
