"""What the command line shows while it works: progress bars and tables."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from advdpnp.base.live import clock_time, live
from advdpnp.base.untrusted.text import printable

if TYPE_CHECKING:
    import pandas as pd

_PIPED_WIDTH = 200  # of tables where output is not a terminal; they must not be cut

#: Results go to standard output, everything else to standard error, so that output can be piped.
#: Nothing is markup: names and paths may look like it. Standard output may be closed.
_terminal = sys.stdout is not None and sys.stdout.isatty()
out = Console(highlight=False, markup=False, soft_wrap=True, width=None if _terminal else _PIPED_WIDTH)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def first_process(processes: int = 1) -> bool:
    """Whether this process prints: the first of those that torchrun, SLURM or Lightning Fabric started.

    Args:
        processes: how many train together. With 1, every task of a SLURM job trains alone and prints.
    """
    # torchrun sets RANK; inside a SLURM job it counts, not the variables of SLURM.
    names = ["RANK"] if os.environ.get("RANK") else ["LOCAL_RANK"]
    if names == ["LOCAL_RANK"] and processes > 1:
        names += ["NODE_RANK", "SLURM_PROCID"]
    return all(os.environ.get(name, "") in ("", "0") for name in names)


@contextmanager
def counting_bar(name: str, total: int) -> Iterator[Callable[[], None]]:
    """Progress over ``total`` steps, as ``base.live`` shows it; call the function after each."""
    done, start = 0, time.monotonic()

    def count() -> None:
        nonlocal done
        done += 1

    def lines() -> list[str]:
        gone = time.monotonic() - start
        left = f", about {clock_time(gone / done * (total - done))} left" if done else ""
        return [name, f"{done} of {total} done, {clock_time(gone)} gone{left}"]

    with live(lines, lambda: done / total, err):
        yield count


def print_records(title: str, records: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
    """A plain table on standard output."""
    heads = [Column(Text(printable(column))) for column in columns]
    table = Table(
        *heads,
        title=Text(printable(title)) if title else None,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for record in records:
        table.add_row(*(Text(printable(cell)) for cell in record))
    out.print(table)


def print_leaderboard(frame: "pd.DataFrame", columns: Sequence[str]) -> None:
    """The accuracies of a leaderboard, one line per model and threat model."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(Text(printable(column)), justify="left" if column in ("model", "flags", "threat") else "right")
    for _, row in frame.iterrows():
        cells = []
        for column in columns:
            value = row[column]
            missing = value is None or value != value
            cells.append("-" if missing else f"{value:.2f}" if isinstance(value, float) else str(value))
        table.add_row(*(Text(printable(cell)) for cell in cells))
    out.print(table)
