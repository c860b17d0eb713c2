"""What every script that measures time needs: turns, their statistics, the circumstances, and tables.

All variants of a table are measured in one process and in turns (A B C, A B C, ...) after a warm-up of each, so load
that comes and goes meets all of them. ``ms`` is the median over the turns; ``relative`` the median of the time of this
row over that of the reference in the same turn. ``cpu_ms`` is the processor time of all threads of this process: where
others want the cores too, it is the steadier number. Nothing here asserts a time.
"""

import math
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import typer

from advdpnp.attacks.engine.precision import computes_bf16
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import write_text
from advdpnp.base.versions import software_versions
from advdpnp.datasets import load_dataset
from advdpnp.datasets.base import Dataset, Split

_WARM_UP = 2  # calls before anything is timed
_LONGEST_TURN = 4.0  # seconds; what would take longer makes fewer steps per turn, but at least one

Row = dict[str, Any]
Work = Callable[[], object]


class Turn(NamedTuple):
    """Seconds per step: on the clock, and of processor time."""

    wall: float
    cpu: float


Turns = dict[str, list[Turn]]


def in_turns(works: Mapping[str, Work], steps: int, repeats: int, per_call: Mapping[str, int] | None = None) -> Turns:
    """Time ``works`` in turns, ``repeats`` of them, each of ``steps`` steps; fewer where a step takes seconds.

    A call of one makes as many steps as ``per_call`` says, or else one.
    """
    size = {name: (per_call or {}).get(name, 1) for name in works}
    calls = {name: _calls(work, steps // size[name]) for name, work in works.items()}
    found: Turns = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            timed, made = time_calls(work, calls[name]), calls[name] * size[name]
            found[name].append(Turn(timed.wall / made, timed.cpu / made))
    return found


def _calls(work: Work, wanted: int) -> int:
    """Warm up, and find how many calls make a turn."""
    repeat(work, _WARM_UP - 1)
    seconds = time_calls(work, 1).wall
    return max(1, min(wanted, int(_LONGEST_TURN / max(seconds, 1e-6))))


def repeat(work: Work, count: int) -> None:
    """Call ``work`` so often."""
    for _ in range(count):
        work()


def time_calls(work: Work, calls: int) -> Turn:
    """Seconds of all ``calls`` together."""
    _wait()
    wall, cpu = time.perf_counter(), time.process_time()
    repeat(work, calls)
    _wait()
    return Turn(time.perf_counter() - wall, time.process_time() - cpu)


def _wait() -> None:
    """A GPU works on after the call that gave it work has returned."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def relative(turns: Sequence[Turn], reference: Sequence[Turn], which: int = 0) -> float:
    """Median over the turns of the time relative to the reference's in the same turn (0: wall, 1: processor)."""
    return statistics.median(a[which] / b[which] for a, b in zip(turns, reference, strict=True) if b[which])


def summary(turns: Sequence[Turn], reference: Sequence[Turn]) -> Row:
    """The columns of one variant."""
    wall, cpu = [1000 * turn.wall for turn in turns], [1000 * turn.cpu for turn in turns]
    spread = {"ms": statistics.median(wall), "ms_lowest": min(wall), "ms_highest": max(wall)}
    ratio = {"relative": relative(turns, reference, 0), "cpu_relative": relative(turns, reference, 1)}
    return {**spread, "cpu_ms": statistics.median(cpu), **ratio}


def table_rows(
    part: str, case: str, found: Turns, reference: str, more: Mapping[str, Row] | None = None
) -> Iterator[Row]:
    """Rows of one table; ``more`` has further columns by variant, and variants that could not be timed."""
    more = more or {}
    for name in dict.fromkeys([*found, *more]):
        row = summary(found[name], found[reference]) if name in found else {}
        yield {"part": part, "case": case, "variant": name, **row, **more.get(name, {})}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch computes with so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def images(count: int = 12_000) -> Dataset:
    """CIFAR-10 where it is, cut to ``count`` training images; else as many random ones, under the name "random"."""
    try:
        dataset = load_dataset("cifar10")
        return replace(dataset, train=dataset.train.head(count))
    except AdvdpnpError:
        made = Split(torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8), torch.randint(10, (count,)))
        return Dataset("random", tuple("0123456789"), made, made.head(1000), made.head(1000), "crop-flip")


def run_script(main: Callable[..., None]) -> None:
    """Run the command line of a script; a mistake of the user ends it with one sentence and exit code 1."""
    try:
        typer.run(main)
    except AdvdpnpError as error:
        sys.exit(str(error))


def command_of(module: str) -> str:
    """The command that is running, of a script that is started as this module."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def circumstances(command: str, used: int, device: torch.device) -> dict[str, str]:
    """What a reader needs to judge the numbers or to get them again; ``used`` counts the threads of torch."""
    load = " ".join(f"{value:.1f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    native = "natively" if computes_bf16(device) else "emulated"
    return {
        "command": command,
        "versions": ", ".join(f"{name} {version}" for name, version in software_versions().items()),
        "processor": f"{_processor()}, {os.cpu_count()} cores, {used} threads used, bf16 {native}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor",
        "load at the end": f"{load} (1, 5, 15 minutes, this program included)",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@dataclass(frozen=True)
class Report:
    """Tables with their circumstances before them and one line after them; ``name`` is that of its files."""

    name: str
    title: str
    facts: Mapping[str, str]
    table: pd.DataFrame
    last: str

    def __str__(self) -> str:
        return self._text("")

    def publish(self, path: Path | None) -> None:
        """Print it; ``path`` is a CSV that it goes to, with a .md beside it, or a folder for files of its name."""
        if path is not None:
            self._save(path)
        print(self)

    def _save(self, path: Path) -> None:
        path = path if path.suffix == ".csv" else path / f"{self.name}.csv"
        write_text(path, self.table.to_csv(index=False, float_format="%.4f"))
        write_text(path.with_suffix(".md"), f"# {self.title}\n\n{self._text('- ')}\n")

    def _text(self, bullet: str) -> str:
        facts = "\n".join(f"{bullet}{name}: {value}" for name, value in self.facts.items())
        return f"{facts}\n\n{as_markdown(self.table)}\n\n{self.last}"


def publish(
    name: str, title: str, table: pd.DataFrame, last: str, *, threads: int, device: torch.device, out: Path | None
) -> None:
    """Print the tables of the script ``benchmarks.NAME`` with the circumstances, and save them in ``out``."""
    facts = circumstances(command_of(f"benchmarks.{name}"), threads, device)
    Report(name.replace("_", "-").replace(".", "-"), title, facts, table, last).publish(out)


def as_markdown(table: pd.DataFrame) -> str:
    """One table per part, without the columns that are empty there."""
    texts = []
    for part, rows in table.groupby("part", sort=False):
        shown = rows.drop(columns="part").dropna(axis=1, how="all")
        align = ["right" if pd.api.types.is_numeric_dtype(shown[column]) else "left" for column in shown]
        cells = shown.map(_cell).to_markdown(index=False, disable_numparse=True, colalign=align)
        texts.append(f"## {part}\n\n{cells}")
    return "\n\n".join(texts)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.2f}"
    return str(value)
