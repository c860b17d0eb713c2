"""What Ray costs on one machine: the processor time of an evaluation with it and without, and whether files are equal.

    python -m benchmarks.cluster.overhead results/checkpoints/cifar10-pgd-at-s0.safetensors --limit 500
    python -m benchmarks.cluster.overhead -- --model my_nets:make --weights net.pt --dataset cifar10

Every command is a process of its own, with an empty results folder. The processor time is that of all processes that it
started, read from /proc twice a second; what a process used after the last look is missing.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer

from advdpnp.base.errors import AdvdpnpError
from benchmarks import timing
from benchmarks.timing import Row

_EVERY = 0.5  # seconds
_OURS = "advdpnp"


class Tree:
    """Processor seconds of all processes below one, and of what kind they are."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._used: dict[tuple[int, str], tuple[float, str]] = {}

    def look(self) -> None:
        """Read /proc; to be called while the processes run."""
        parents, used = {}, {}
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and (status := _status(Path(entry.path))):
                pid, (parent, began, seconds, kind) = int(entry.name), status
                parents[pid], used[pid, began] = parent, (seconds, kind)
        for (pid, began), (seconds, kind) in used.items():
            if self._root in _ancestors(pid, parents):
                _, known = self._used.get((pid, began), (0.0, "Ray s"))
                self._used[pid, began] = seconds, kind or known

    def seconds(self) -> Counter[str]:
        """By kind of process."""
        found = Counter[str]()
        for seconds, kind in self._used.values():
            found[kind] += seconds
        return found


def _status(path: Path) -> tuple[int, str, float, str] | None:
    """Parent, time of the start, processor seconds, and kind of a process, which one that has just ended has no more;
    None if it is gone.
    """
    try:
        words = (path / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    seconds = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    kind = "workers s" if command.startswith("ray::Worker") else "command s" if _OURS in command else "Ray s"
    return int(words[1]), words[19], seconds, kind if command.strip() else ""


def _ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    found = {pid}
    while (pid := parents.get(pid, 0)) and pid not in found:
        found.add(pid)
    return found


def measure(words: list[str], out: Path, cores: int) -> Row:
    """Run ``advdpnp eval`` with so many cores; seconds of the clock and of the processors."""
    command = [sys.executable, "-m", "advdpnp", "eval", *words, "--out", str(out)]
    began = time.monotonic()
    with subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": str(cores)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        tree = Tree(process.pid)
        while process.poll() is None:
            tree.look()
            time.sleep(_EVERY)
        said = process.stderr.read().decode() if process.stderr else ""
    if process.returncode:
        raise AdvdpnpError(f"the evaluation ends with exit code {process.returncode}: {said.strip()[-300:]}")
    seconds = tree.seconds()
    parts = {kind: round(seconds[kind], 1) for kind in ("command s", "workers s", "Ray s")}
    return {"processor s": round(seconds.total(), 1), **parts, "clock s": round(time.monotonic() - began, 1)}


def data_files(out: Path) -> dict[str, bytes]:
    """Verdicts and images, as they are on disk."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def main(
    net: Annotated[list[str], typer.Argument(help="What is evaluated, as for advdpnp eval; after -- with options.")],
    attacks: Annotated[str, typer.Option(help="As for advdpnp eval.")] = "autoattack",
    limit: Annotated[int, typer.Option(min=1)] = 500,
    workers: Annotated[str, typer.Option(help="Numbers with commas.")] = "2",
    out: Annotated[Path | None, typer.Option(help="Folder, or CSV, for the table.")] = None,
) -> None:
    """Evaluate without a cluster and with so many workers; print the table."""
    words = [*net, "--attacks", attacks, "--limit", str(limit), "--device", "cpu", "--save-adversarials"]
    cores, rows = os.cpu_count() or 1, list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "alone"
        rows.append({"part": attacks, "run": f"one process, {cores} cores", **measure(words, alone, cores)})
        print(rows[-1], file=sys.stderr, flush=True)
        for count in map(int, workers.split(",")):
            there = Path(folder) / f"{count}"
            row = measure([*words, "--cluster", "local"], there, count)
            more = 100 * (row["processor s"] / rows[0]["processor s"] - 1)
            equal = "yes" if data_files(there) == data_files(alone) else "NO"
            rows.append(
                {
                    "part": attacks,
                    "run": f"--cluster local, {count} workers",
                    **row,
                    "more %": more,
                    "same files": equal,
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
    last = f"{' '.join(net)}, {limit} images; all else that the machine does lengthens the time of Ray's own processes"
    cpu = torch.device("cpu")
    timing.publish(
        "cluster.overhead",
        "What Ray costs on one machine",
        pd.DataFrame(rows),
        last,
        threads=cores,
        device=cpu,
        out=out,
    )


if __name__ == "__main__":
    timing.run_script(main)
