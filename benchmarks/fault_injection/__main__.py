"""The command line of the fault injection: run the parts, print the table, exit with code 1 unless all pass."""

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from advdpnp.base.errors import AdvdpnpError
from benchmarks import timing
from benchmarks.fault_injection import faults
from benchmarks.fault_injection.bench import Bench
from benchmarks.fault_injection.damaged_files import damaged_files
from benchmarks.fault_injection.full_disk import can_mount
from benchmarks.timing import Row

Part = Callable[[Bench, random.Random], Iterator[Row]]
PARTS: dict[str, Part] = {
    **{f"kill -9 {name}": partial(faults.kills, name=name) for name in ("train", "eval", "leaderboard")},
    "signals": faults.signals,
    "several trainers": faults.trainers,
    "two writers": faults.writers,
    "full disk": faults.full_disks,
    "read-only": faults.read_only,
    "damaged files": damaged_files,
    "changed checkpoint": faults.swaps,
}
_MOUNTED = ("full disk", "read-only")


def _rows(bench: Bench, part: str, seed: int) -> list[Row]:
    """One part of the table, each row printed as it comes."""
    if part in _MOUNTED and not can_mount(bench.root):
        return [{"part": part, "case": "all", "fault": "skipped: only root may mount", "passes": "skipped"}]
    rows = []
    for row in PARTS[part](bench, random.Random(f"{part} {seed}")):
        rows.append({"part": part, **row})
        print(f"{row['passes']:<4} {row['case']}: {row['fault']}", file=sys.stderr, flush=True)
    return rows


def main(
    parts: Annotated[str, typer.Option(help="Names with commas, or all.")] = "all",
    seed: Annotated[int, typer.Option(help="Seed of the random moments.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Parts that run at once.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder, or CSV, for the table.")] = None,
) -> None:
    """Run the table, print it, and exit with code 1 unless all of it passes."""
    chosen = list(PARTS) if parts == "all" else [name.strip() for name in parts.split(",")]
    if unknown := [name for name in chosen if name not in PARTS]:
        raise AdvdpnpError(f"there is no part '{unknown[0]}'; choose from {', '.join(PARTS)}")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(Path(root))
        with ThreadPoolExecutor(jobs) as pool:
            tables = list(pool.map(lambda part: _rows(bench, part, seed), chosen))
    table = pd.DataFrame([row for rows in tables for row in rows])
    failed = int((table["passes"] == "NO").sum())
    skipped = int((table["passes"] == "skipped").sum())
    last = f"{len(table) - failed - skipped} of {len(table)} cases pass"
    last += f", {skipped} skipped" if skipped else ""
    last += f"; {(time.monotonic() - begun) / 60:.0f} minutes"
    cpu = torch.device("cpu")
    timing.publish("fault_injection", "Fault injection", table, last, threads=1, device=cpu, out=out)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    timing.run_script(main)
