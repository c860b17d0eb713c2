"""What the command line shows while it works: progress bars and tables. No part of the library prints."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from advdpnp.trainer import Progress as TrainingProgress

#: Results go to standard output, everything else to standard error, so that output can be piped.
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def training_bar(name: str) -> Iterator[Callable[["TrainingProgress"], None]]:
    """A bar over all steps of a run with loss and accuracy; one line per finished epoch where output is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
               TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=err) as progress:
        task = progress.add_task(name, note="", total=None)
        finished = 0

        def report(state: "TrainingProgress") -> None:
            nonlocal finished
            shown = {key: value for key, value in state.terms.items() if key == "loss" or key.endswith("accuracy")}
            note = "  ".join(f"{key.replace('_accuracy', ' acc')} {value:.3f}" for key, value in shown.items())
            progress.update(task, total=state.steps, completed=state.step, note=note)
            epoch = state.metrics.get("epoch", 0)
            if epoch > finished:
                finished = epoch
                metrics = state.metrics
                progress.console.print(
                    f"{name}  epoch {epoch}/{state.epochs}  loss {metrics['loss']:.4f}  "
                    f"validation clean {100 * metrics['validation_clean']:.1f} %  "
                    f"pgd {100 * metrics['validation_pgd']:.1f} %  MinSep {metrics['min_separation']:.1f} deg  "
                    f"{metrics['seconds']:.0f} s"
                )

        yield report


def print_records(title: str, records: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
    """A plain table on standard output."""
    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for record in records:
        table.add_row(*record)
    out.print(table)


def print_leaderboard(frame: "pd.DataFrame", columns: Sequence[str]) -> None:
    """The accuracies of a leaderboard, one line per model and threat model."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="left" if column in ("model", "flags", "threat") else "right")
    for _, row in frame.iterrows():
        cells = []
        for column in columns:
            value = row[column]
            missing = value is None or value != value
            cells.append("-" if missing else f"{value:.2f}" if isinstance(value, float) else str(value))
        table.add_row(*cells)
    out.print(table)
