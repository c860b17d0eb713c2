"""``advdpnp compare``: two models, image by image."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import write_text
from advdpnp.commands.support import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from advdpnp.eval.analysis.rows import Row

EPILOG = "Example: `advdpnp compare cifar10-adv-dpnp-s0 cifar10-pgd-at-s0 results/cifar10`"

First = Annotated[str, typer.Argument(metavar="A", help="Name of a model in the tables.")]
Second = Annotated[str, typer.Argument(metavar="B", help="Name of the model it is compared with.")]
Folders = Annotated[
    list[Path] | None, typer.Argument(metavar="FOLDER", help="Folders with verdicts of both.", show_default="results")
]
Columns = Annotated[
    str | None, typer.Option(help="Compare only these columns, such as clean,autoattack.", show_default="all of both")
]
Out = Annotated[Path | None, typer.Option(help="Also write the table to this CSV file.")]


def compare(first: First, second: Second, folders: Folders = None, columns: Columns = None, out: Out = None) -> None:
    """Compare two models on the same images: differences with paired intervals, and the exact McNemar test."""
    from advdpnp.eval.analysis.rows import make_rows
    from advdpnp.eval.store.reader import readable_results

    names = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    if names == []:
        raise AdvdpnpError("--columns is empty; leave it out, or write --columns clean,autoattack")
    with readable_results(folders or [Path("results")]) as found:
        _compare(make_rows(found), first, second, names, out)


def _compare(rows: "Sequence[Row]", first: str, second: str, names: list[str] | None, out: Path | None) -> None:
    from advdpnp.eval.analysis.significance import compare_models, left_out

    frame = compare_models(rows, first, second, names)
    for (dataset, threat, seed), part in frame.groupby(["dataset", "threat", "seed"], sort=False):
        title = f"{first} (A) against {second} (B): {dataset}, {threat}{f', seed {seed}' * bool(seed)}"
        heads = ["", "A", "B", "A - B", "95 % interval", "only A", "only B", "p", "p (Holm)", "n"]
        console.print_records(title, [_words(row) for _, row in part.iterrows()], heads)
        console.out.print()
    for sentence in left_out(rows, first, second) if names is None else ():
        console.out.print(sentence)
    console.out.print(
        "Percent and points; only A: images that A alone gets right. Paired interval by Newcombe's method 10, p by the "
        "exact McNemar test (corruptions: t over images). p is not corrected, p (Holm) is for the number of columns.",
    )
    if out is not None:
        from advdpnp.eval.report.csv import to_csv

        write_text(out, to_csv(frame, float_format="%.6g"))
        console.out.print(f"{out}")


def _words(row: "pd.Series[Any]") -> list[str]:
    import pandas as pd

    interval = f"{row['difference_low']:+.2f} to {row['difference_high']:+.2f}"
    counts = ["-" if pd.isna(row[name]) else str(int(row[name])) for name in ("only_a", "only_b")]
    p = [_chance(row[name]) for name in ("p", "p_holm")]
    accuracies = [f"{row[name]:.2f}" for name in ("a", "b")]
    known = interval if pd.notna(row["difference_low"]) else "-"
    return [str(row["column"]), *accuracies, f"{row['difference']:+.2f}", known, *counts, *p, str(int(row["n"]))]


def _chance(p: float) -> str:
    return "-" if p != p else "< .0001" if p < 1e-4 else f"{p:.4f}"
