"""What ``advdpnp compare`` does, put together from the library."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import write_text
from advdpnp.commands.console import out as console
from advdpnp.commands.console import print_records
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.analysis.significance import compare_models, left_out
from advdpnp.eval.store.reader import find_results


def compare_command(
    first: str, second: str, folders: Sequence[Path], *, columns: str | None = None, out: Path | None = None
) -> None:
    """Compare two models by their stored verdicts and print it.

    Raises:
        AdvdpnpError: as ``compare_models``, or ``columns`` names nothing.
    """
    names = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    if names == []:
        raise AdvdpnpError("--columns is empty; leave it out, or write --columns clean,autoattack")
    rows = make_rows(find_results(folders))
    frame = compare_models(rows, first, second, names)
    for (dataset, threat, seed), part in frame.groupby(["dataset", "threat", "seed"], sort=False):
        title = f"{first} (A) against {second} (B): {dataset}, {threat}{f', seed {seed}' * bool(seed)}"
        heads = ["", "A", "B", "A - B", "95 % interval", "only A", "only B", "p", "p (Holm)", "n"]
        print_records(title, [_words(row) for _, row in part.iterrows()], heads)
        console.print()
    for sentence in left_out(rows, first, second) if names is None else ():
        console.print(sentence, markup=False)
    console.print(
        "Percent and points; only A: images that A alone gets right. Paired interval by Newcombe's method 10, p by the "
        "exact McNemar test (corruptions: t over images). p is not corrected, p (Holm) is for the number of columns.",
        markup=False,
    )
    if out is not None:
        write_text(out, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
        console.print(f"{out}", markup=False)


def _words(row: pd.Series) -> list[str]:
    interval = f"{row['difference_low']:+.2f} to {row['difference_high']:+.2f}"
    counts = ["-" if pd.isna(row[name]) else str(int(row[name])) for name in ("only_a", "only_b")]
    p = [_chance(row[name]) for name in ("p", "p_holm")]
    accuracies = [f"{row[name]:.2f}" for name in ("a", "b")]
    known = interval if pd.notna(row["difference_low"]) else "-"
    return [str(row["column"]), *accuracies, f"{row['difference']:+.2f}", known, *counts, *p, str(int(row["n"]))]


def _chance(p: float) -> str:
    return "-" if pd.isna(p) else "< .0001" if p < 1e-4 else f"{p:.4f}"
