"""``advdpnp leaderboard``: tables, page and figures from stored verdicts."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advdpnp.base.errors import AdvdpnpError
from advdpnp.commands.support import console

if TYPE_CHECKING:
    import pandas as pd

    from advdpnp.eval.analysis.rows import Row

EPILOG = "Example: `advdpnp leaderboard results/cifar10 --out table`"

Folders = Annotated[list[Path], typer.Argument(metavar="FOLDER", help="Folders with verdicts, searched to any depth.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the tables and figures.", show_default="the first folder")]
Baseline = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Add the mCE: errors on corruptions relative to this model's.")
]
Compare = Annotated[
    str | None,
    typer.Option(metavar="robustbench", help="Add the rows that RobustBench publishes, marked as published."),
]


Vectors = Annotated[bool, typer.Option("--vectors", help="Save each figure as PDF and SVG too.")]
AllFigures = Annotated[bool, typer.Option("--all-figures", help="Draw every model, also where there are more than 20.")]


def leaderboard(
    folders: Folders,
    out: Out = None,
    mce_baseline: Baseline = None,
    compare: Compare = None,
    all_figures: AllFigures = False,
    vectors: Vectors = False,
) -> None:
    """Rebuild the leaderboard, its page and the figures from the verdicts of any number of evaluations."""
    from advdpnp.eval.store.model_record import find_models

    if compare not in (None, "robustbench"):
        raise AdvdpnpError(
            f"nothing published is known by the name '{compare}'; write --compare robustbench (two models are compared "
            "by `advdpnp compare`)"
        )
    for folder in folders:
        find_models(folder)  # a folder named by mistake gets no lock
    figures = {"all_figures": all_figures, "vectors": vectors}
    _rebuild(folders, out or folders[0], mce_baseline, published=bool(compare), **figures)


def _rebuild(folders: Sequence[Path], results: Path, baseline: str | None, *, published: bool, **figures: bool) -> None:
    from advdpnp.eval.analysis.rows import make_rows
    from advdpnp.eval.report.leaderboard import writing_tables
    from advdpnp.eval.report.robustbench import is_published
    from advdpnp.eval.report.write import write_report
    from advdpnp.eval.store.reader import readable_results

    with ExitStack() as damaged_are_told:
        with writing_tables(results):  # read only now: what another process wrote while this one waited is in the table
            rows = make_rows(damaged_are_told.enter_context(readable_results(folders)))
            frame = write_report(rows, results, folders=folders, mce_baseline=baseline, published=published)
        theirs = is_published(frame)
        show(frame[~theirs], results, rows, **figures)
        if published:
            console.out.print(
                f"{theirs.sum()} published rows of this data and threat model: {results / 'leaderboard.md'}",
            )


def show(
    frame: "pd.DataFrame",
    results: Path,
    rows: "Sequence[Row] | None" = None,
    *,
    all_figures: bool = False,
    vectors: bool = False,
) -> None:
    """Draw the figures of a results folder and print rows of its leaderboard with their notes."""
    from advdpnp.eval.analysis.columns import accuracy_columns, row_key
    from advdpnp.eval.analysis.corruptions import corruption_notes
    from advdpnp.eval.analysis.rows import make_rows
    from advdpnp.eval.analysis.search_notes import search_notes
    from advdpnp.eval.report.figures import MANY, draw_rows, is_crowded
    from advdpnp.eval.report.leaderboard import writing_tables
    from advdpnp.eval.report.tables import unmeasured_note
    from advdpnp.eval.store.reader import find_results

    with writing_tables(results):
        every = make_rows(find_results([results])) if rows is None else rows
        figures = draw_rows(every, results, everything=all_figures, vectors=vectors)
    numbers = [name for name in accuracy_columns(frame) if frame[name].notna().any()]
    console.print_leaderboard(
        frame.assign(threat=frame["norm"] + " " + frame["eps_text"]),
        ["model", "threat", *numbers, *(["mce"] if "mce" in frame else []), "n", "flags"],
    )
    _show_types(frame)
    sources = [f"Corruptions: {each}." for each in dict.fromkeys(frame["corruption_source"]) if each]
    shown = set(frame.apply(row_key, axis=1)) if len(frame) else set()
    searches = [note for row in every if row.key in shown for note in search_notes(row)]
    for note in [*sources, *searches, *corruption_notes(frame), *filter(None, [unmeasured_note(frame)])]:
        console.out.print(note)
    best = "" if all_figures or not is_crowded(every) else f" of the best {MANY} (--all-figures draws every model)"
    console.out.print(f"\n{results / 'leaderboard.html'}, .csv, .md and {len(figures)} figures{best}")


def _show_types(frame: "pd.DataFrame") -> None:
    """Accuracy per corruption type, of models that ran only some types and so have no mean."""
    from advdpnp.eval.analysis.corruptions import COUNT, MEAN, TYPE
    from advdpnp.eval.report.tables import number

    if MEAN not in frame:
        return
    types = [name for name in map(str, frame) if name.startswith(TYPE)]
    alone = frame[frame[MEAN].isna() & frame[types].notna().any(axis=1)]
    alone = alone.drop_duplicates(["model", "weights_hash", "data_hash", "corruption_source", COUNT])
    if len(alone):
        types = [name for name in types if alone[name].notna().any()]
        records = [[name.removeprefix(TYPE), *map(number, alone[name])] for name in types]
        console.print_records("", records, ["mean of five severities", *alone["model"]])
