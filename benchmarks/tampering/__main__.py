"""Run every way of tampering, and tell what notices it."""

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from benchmarks import timing
from benchmarks.tampering.bench import Bench
from benchmarks.tampering.searches import remembered_searches
from benchmarks.tampering.ways import all_ways


def main(
    only: Annotated[str, typer.Option(help="Run the ways whose name has this.")] = "",
    base: Annotated[Path | None, typer.Option(help="Folder that keeps the honest results.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder, or CSV, for the table.")] = None,
) -> None:
    """Run the table, print it, and exit with code 1 if anything that should be noticed is not."""
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as temporary, remembered_searches():
        bench = Bench(base or Path(temporary))
        rows = []
        for way in all_ways():
            if only in way.name:
                rows.append(bench.row(way))
                print(f"{rows[-1]['outcome']}: {way.name}", file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    failed = int(table["outcome"].isin(["BUG", "NOT NOTICED"]).sum())
    noticed = int((table["outcome"] == "noticed").sum())
    last = (
        f"{noticed} of {len(table)} noticed, {len(table) - noticed - failed} cannot be, {failed} should be and are not"
    )
    last += f"; {(time.process_time() - begun) / 60:.1f} minutes of processor time"
    timing.publish("tampering", "Tampering", table, last, threads=1, device=torch.device("cpu"), out=out)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    timing.run_script(main)
