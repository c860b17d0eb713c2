"""The leaderboard for a paper: tables in LaTeX, which need the package booktabs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from advdpnp.base.errors import AdvdpnpError, did_you_mean
from advdpnp.eval.analysis.columns import accuracy_columns
from advdpnp.eval.analysis.seeds import JUDGED, TRAINING, summarise_seeds
from advdpnp.eval.report.exports.names import METHODS, column_name, dataset_name, slug, threat_in_latex
from advdpnp.eval.report.robustbench import is_published, published_grids
from advdpnp.eval.report.tables import Grid, Table, cut_into_tables, number

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "–": "--", "°": r"$^\circ$", "≥": r"$\geq$", "×": r"$\times$",
}  # fmt: skip
_MODEL, _SEEDS, _SPREAD = "model", "_seeds", "_std"


def to_latex(frame: pd.DataFrame, columns: Sequence[str] | None = None) -> str:
    """One table environment per data set, threat model and seed of the attacks; the best of each column is bold.

    Nets that differ in nothing but their training seed are one row, mean ± standard deviation over the seeds.

    Args:
        frame: a leaderboard.
        columns: of accuracies, in this order; None for all that the table has.

    Raises:
        AdvdpnpError: the leaderboard has no such column.
    """
    measured = frame[~is_published(frame)]
    known = accuracy_columns(measured)
    for name in columns or ():
        if name not in known:
            hint = did_you_mean(name, known, otherwise=f"choose among {', '.join(known)}")
            raise AdvdpnpError(f"the leaderboard has no column '{name}'; {hint}")
    several_seeds = measured["seed"].nunique() > 1
    labels: set[str] = set()
    blocks = []
    for table in cut_into_tables(_seeds_joined(measured)):
        chosen = [name for name in columns if name in table.accuracies] if columns else table.accuracies
        ranked = table.part.sort_values(["worst_case", "clean"], ascending=False, kind="stable")
        if chosen:
            blocks.append(_environment(replace(table, accuracies=chosen, part=ranked), several_seeds, labels))
    grids = [grid for grid in published_grids(frame) if grid.rows]
    return "\n".join([*blocks, *map(_plain, grids)])


def _seeds_joined(frame: pd.DataFrame) -> pd.DataFrame:
    """The leaderboard with one line for all training seeds of a recipe: accuracies are means.

    Two kinds of columns are added: ``_seeds`` (how many; 1 for a single net) and ``X_std``.
    """
    names = accuracy_columns(frame)
    joined = frame.assign(**{_SEEDS: 1}, **{f"{name}{_SPREAD}": float("nan") for name in names})
    summary = summarise_seeds(frame)
    groups = summary[summary["over"] == TRAINING] if len(summary) else summary
    for _, group in groups.iterrows():
        same = joined["model"].isin(group["models"].split("; ")) & (joined["method"] == group["method"])
        for name in [*JUDGED, "seed"]:
            same &= (joined[name] == group[name]) | (joined[name].isna() & pd.isna(group[name]))
        first = joined.index[same][0]
        # P values are of single nets: none holds for a mean, nor for what was compared with one of these nets.
        beside = (joined["dataset"] == group["dataset"]) & (joined["norm"] == group["norm"])
        joined.loc[beside & (joined["eps"] == group["eps"]), "worst_case_p_holm"] = float("nan")
        joined.loc[first, [_MODEL, _SEEDS]] = [group["group"], group["seeds"]]
        joined.loc[first, "flags"] = "; ".join(
            dict.fromkeys(code for text in joined.loc[same, "flags"] for code in text.split("; ") if code)
        )
        for name in names:
            joined.loc[first, name] = group.get(f"{name}_mean", float("nan"))
            joined.loc[first, f"{name}{_SPREAD}"] = group.get(f"{name}_std", float("nan"))
        joined = joined.drop(index=joined.index[same][1:])
    return joined


def _environment(table: Table, several_seeds: bool, labels: set[str]) -> str:
    names = _row_names(table.part)
    flagged = {place: flags for place, flags in table.part["flags"].items() if flags}
    rows = []
    for place, line in table.part.iterrows():
        marks = [
            *([r"\dagger"] if place in table.marks.incomparable else []), *([r"\ddagger"] if place in flagged else [])
        ]  # fmt: skip
        head = _escape(names[place]) + (f"$^{{{''.join(marks)}}}$" if marks else "")
        rows.append([head, *(_accuracy(table, line, name) for name in table.accuracies)])
    first = table.part.iloc[0]
    threat = f"{first['norm']} {first['eps_text']}" if first["norm"] else "clean"
    seed = f" seed {first['seed']}" if several_seeds and pd.notna(first["seed"]) else ""
    stem = f"tab:{slug(dataset_name(first['dataset']))}-{slug(threat + seed)}"
    label = next(each for each in (stem, *(f"{stem}-{n}" for n in range(2, len(labels) + 2))) if each not in labels)
    labels.add(label)
    heads = ["Method" if set(names.values()) <= set(METHODS.values()) else "Model", *map(_head, table.accuracies)]
    caption = " ".join(_caption(table, {names[place]: flags for place, flags in flagged.items()}, several_seeds))
    return _wrapped(caption, label, f"l{'r' * len(table.accuracies)}", heads, rows)


def _row_names(part: pd.DataFrame) -> Mapping[object, str]:
    """By line: the method as papers call it, where each line has another one, else the name of the model."""
    methods = [METHODS.get(method, method) for method in part["method"]]
    distinct = all(methods) and len(set(methods)) == len(methods)
    return dict(zip(part.index, methods if distinct else part[_MODEL].astype(str), strict=True))


def _accuracy(table: Table, line: pd.Series, name: str) -> str:
    text, spread = _escape(number(line[name])), line[f"{name}{_SPREAD}"]
    mark = r"$^\circ$" if table.not_significantly_worse(line, name) and not table.is_best(line, name) else ""
    text = rf"\textbf{{{text}}}" if table.is_best(line, name) else f"{text}{mark}"
    return text if pd.isna(spread) else rf"{text} $\pm$ {spread:.2f}"


def _caption(table: Table, flagged: Mapping[str, str], several_seeds: bool) -> Iterable[str]:
    """Its sentences."""
    first = table.part.iloc[0]
    seed = f", seed {first['seed']} of the attacks" if several_seeds and pd.notna(first["seed"]) else ""
    sizes = sorted({int(n) for n in table.part["n"]})
    n = " to ".join(f"{size:,}".replace(",", "{,}") for size in dict.fromkeys((sizes[0], sizes[-1])))
    threat = threat_in_latex(first["norm"], first["eps_text"])
    yield rf"Accuracy in percent on {_escape(dataset_name(first['dataset']))}, {threat}; $n = {n}$ test images{seed}."
    if any(table.marks.best.values()):
        yield "The best of each column is bold."
    counts = sorted({int(count) for count in table.part[_SEEDS]} - {1})
    if counts:
        yield rf"$\pm$: standard deviation over {' or '.join(map(str, counts))} training seeds."
    source = next((each for each in table.part["corruption_source"] if each), "")
    if source and any(name.startswith("corruption") for name in table.accuracies):
        yield f"Corruptions: {_escape(source.replace('cifar', 'CIFAR-').replace('-c', '-C', 1))}."
    if table.chance_note and "worst_case" in table.accuracies:
        yield rf"$^\circ$: {_escape(table.chance_note.replace('>=', '≥'))}."
    if table.incomparable_note:
        yield rf"$^\dagger$: {_escape(table.incomparable_note)}."
    if flagged:
        raised = "; ".join(f"{name}: {flags.replace('; ', ', ')}" for name, flags in flagged.items())
        yield rf"$^\ddagger$: flagged, so the numbers may be too high ({_escape(raised)})."


def _plain(grid: Grid) -> str:
    columns = "".join("l" if head in (grid.heads[0], *grid.words) else "r" for head in grid.heads)
    rows = [[_escape(cell) for cell in row] for row in grid.rows]
    caption = " ".join(f"{_escape(_sentence(text))}." for text in (grid.caption, *grid.notes))
    heads = [_head(head[:1].upper() + head[1:]) for head in grid.heads]
    return _wrapped(caption, f"tab:{slug(grid.caption.partition(';')[0])}", columns, heads, rows)


def _wrapped(caption: str, label: str, columns: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table environment; caption, heads and cells are escaped already."""
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{caption}}}",
        rf"  \label{{{label}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        f"    {' & '.join(heads)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(cells)} \\\\" for cells in rows),
    ]
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])


def _head(column: str) -> str:
    return _escape(column_name(column))


def _sentence(text: str) -> str:
    """With a capital letter and without a full stop."""
    return text[:1].upper() + text[1:].rstrip(".")


def _escape(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)
