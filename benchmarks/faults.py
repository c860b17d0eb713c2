"""What is lost when a command is killed, stopped, robbed of its disk or given damaged files: nothing, in one sentence.

    python -m benchmarks.faults --jobs 4 --out results/benchmarks

Every row is a command on digits with tiny settings and a fault; then the cause is removed and the same command is
given again. It passes where the command ended as it should, with at most one sentence and no traceback, and where what
is left in the end is, apart from times, what an undisturbed run leaves: weights, verdicts, images, tables and figures,
bit for bit, and no unfinished file. Full and read-only disks are small file systems in memory, which need root.
"""

import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer

from advdpnp.base.errors import AdvdpnpError
from benchmarks import timing
from benchmarks.commands import Command, Ended, left_over, what_is_left
from benchmarks.disks import can_mount, small_disk

Row = timing.Row
KILLS = 10
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STOPPED = r"^stopped[; ]"


@dataclass(frozen=True)
class Job:
    """One command of the matrix.

    Attributes:
        words: after ``advdpnp``.
        leaves: the folder that it writes to.
        needs: folders of the undisturbed runs that it reads.
    """

    words: tuple[str, ...]
    leaves: str
    needs: tuple[str, ...] = ()


_SETTINGS = ("validation_steps=2", "attack.steps=2", "batch_size=128", "average=0.9")
_TRAIN = ("train", "--recipe", "adv-dpnp", "--dataset", "digits", "--epochs", "2", "--device", "cpu",
          *(word for value in _SETTINGS for word in ("--set", value)), "--name", "net")  # fmt: skip
_EVAL = ("eval", "runs/net", "--attacks", "fgsm,pgd-20,square,pyautoattack:apgd-ce", "--corruptions", "regenerated",
         "--corruption-types", "fog", "--limit", "8", "--eps", "0.2", "--device", "cpu",
         "--out", "results")  # fmt: skip
JOBS = {
    "train": Job(_TRAIN, "runs"),
    "eval": Job(_EVAL, "results", ("runs",)),
    "leaderboard": Job(("leaderboard", "results", "--out", "table"), "table", ("results",)),
    "corrupt": Job(("corrupt", "--dataset", "digits", "--types", "fog,snow", "--out", "corrupted"), "corrupted"),
}


class Bench:
    """Undisturbed runs, and folders in which the same commands are disturbed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.straight = root / "straight"
        self.straight.mkdir()
        self.seconds: dict[str, float] = {}
        self.expected: dict[str, dict[str, str]] = {}
        Command(["list", "attacks"], root).wait()  # the server of forks imports before anything is timed
        for name, job in JOBS.items():
            ended = Command(job.words, self.straight).wait()
            print(f"undisturbed {name}: {ended.seconds:.1f} s", file=sys.stderr, flush=True)
            if ended.code:
                raise AdvdpnpError(f"an undisturbed {name} fails: {' '.join(ended.sentences) or ended.said}")
            self.seconds[name] = ended.seconds
            self.expected[name] = what_is_left(self.straight / job.leaves)

    @contextmanager
    def folder(self, name: str, *, done: bool = False) -> Iterator[Path]:
        """A new folder with what the command reads; with ``done`` also with what it has left."""
        path = Path(tempfile.mkdtemp(dir=self.root))
        job = JOBS[name]
        for part in (*job.needs, *([job.leaves] if done else [])):
            shutil.copytree(self.straight / part, path / part)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def row(
        self, name: str, fault: str, ended: Sequence[Ended], codes: Sequence[int], sentence: str, folder: Path,
        last: Sequence[Command] | None = None,
    ) -> Row:  # fmt: skip
        """One line of the table: the fault is over, and the command is given again.

        Args:
            ended: the disturbed commands.
            codes: how they should have ended.
            sentence: what the first of them that speaks should say, a pattern; "" if none should.
            last: commands that continue, if it is not the same one again.
        """
        finished = [each.wait() for each in (last or [self.again(name, folder)])]
        spoken = [line for each in ended for line in each.sentences]
        talk = [line for each in (*ended, *finished) for line in each.said.splitlines() if "Traceback" in line]
        place = folder / JOBS[name].leaves
        wrong = differences(self.expected[name], what_is_left(place)) + left_over(place)
        as_expected = [each.code for each in ended] == list(codes) and not any(each.code for each in finished)
        heard = len(spoken) == (1 if sentence else 0) and all(re.search(sentence, line) for line in spoken)
        again = [line for each in finished for line in each.sentences]
        codes_seen = " and ".join(str(each.code) for each in ended)
        return {
            "case": name,
            "fault": fault,
            "ended with": f"{codes_seen}, then {' and '.join(str(each.code) for each in finished)}",
            "sentence": " / ".join(_tidy(line, folder) for line in [*spoken, *again]),
            "nothing lost": "yes" if not wrong else f"no: {', '.join(wrong)}",
            "passes": "yes" if as_expected and heard and not talk and not wrong else "NO",
        }

    def start(self, name: str, folder: Path, **options: Any) -> Command:
        """The command, for the first time."""
        return Command(JOBS[name].words, folder, **options)

    def again(self, name: str, folder: Path, **options: Any) -> Command:
        """The command once more; training asks for --resume once it has saved anything, and only then."""
        saved = name == "train" and (folder / "runs" / "net" / "training.pt").exists()
        return Command([*JOBS[name].words, *(["--resume"] if saved else [])], folder, **options)


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Files that are missing, other, or too many."""
    return [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]


def _tidy(sentence: str, folder: Path) -> str:
    """Without the path of this machine and what is random in it."""
    return re.sub(r"\.[a-z0-9_]{8}\.tmp", ".tmp", sentence.replace(f"{folder}/", "")).replace("|", "/")


def struck(bench: Bench, name: str, number: signal.Signals, share: float, code: int, sentence: str) -> Row:
    """A command that gets a signal after this share of its time; sooner, where it is faster than undisturbed."""
    while True:
        with bench.folder(name) as folder:
            ended = bench.start(name, folder).after(share * bench.seconds[name]).send(number).wait()
            if ended.code:
                fault = f"{'kill -9' if number == signal.SIGKILL else number.name} at {share:.0%}"
                return bench.row(name, fault, [ended], [code], sentence, folder)
        share *= 0.7  # it had ended before


def kills(bench: Bench, draw: random.Random, name: str) -> Iterator[Row]:
    """kill -9 at random moments, spread over the time that the command takes."""
    for turn in range(KILLS):
        yield struck(bench, name, signal.SIGKILL, (turn + draw.random()) / KILLS, -9, "")


def signals(bench: Bench, draw: random.Random) -> Iterator[Row]:
    """SLURM's preemption, Ctrl-C, and a terminal that goes."""
    for name in JOBS:
        for number in _STOPPING:
            yield struck(bench, name, number, 0.15 + 0.5 * draw.random(), 2, _STOPPED)


def processes(bench: Bench, draw: random.Random) -> Iterator[Row]:
    """Two processes share an evaluation, and one or both die."""

    def ranks(folder: Path, world: int) -> list[Command]:
        shares = [{"RANK": str(rank), "WORLD_SIZE": str(world)} for rank in range(world)]
        return [bench.start("eval", folder, variables=each) for each in shares]

    def at_work(folder: Path) -> Callable[[], bool]:
        return lambda: any((folder / "results" / ".shards" / "1").rglob("pgd-20*"))

    for fault, number, dies in (
        ("the first of two processes killed", signal.SIGKILL, (0,)),
        ("the second of two processes killed", signal.SIGKILL, (1,)),
        ("the second of two processes crashes (SIGSEGV)", signal.SIGSEGV, (1,)),
    ):
        with bench.folder("eval") as folder:
            both = ranks(folder, 2)
            both[1].until(at_work(folder))
            for rank in dies:
                both[rank].send(number)
            codes = [-number if rank in dies else 0 for rank in (0, 1)]
            yield bench.row("eval", fault, [each.wait() for each in both], codes, "", folder)
    for fault, before, after in (
        ("both of two processes killed, continued by one", 2, 1),
        ("both of two processes killed, continued by three", 2, 3),
        ("killed alone, continued by two processes", 1, 2),
    ):
        with bench.folder("eval") as folder:
            running = ranks(folder, before)
            if before == 1:
                running[0].after(0.4 * bench.seconds["eval"])
            else:
                running[1].until(at_work(folder))
            ended = [each.send(signal.SIGKILL).wait() for each in running]
            yield bench.row("eval", fault, ended, [-9] * before, "", folder, last=ranks(folder, after))
    with bench.folder("eval") as folder:
        both = ranks(folder, 2)
        both[1].until(at_work(folder))
        ended = [each.send(signal.SIGTERM) for each in both]
        yield bench.row("eval", "SIGTERM to both of two processes", [e.wait() for e in ended], [2, 2], _STOPPED, folder)


def writers(bench: Bench, draw: random.Random) -> Iterator[Row]:
    """Two commands write to the same place at once."""
    refused = "^another process is writing to "
    for name in ("train", "eval", "corrupt"):
        with bench.folder(name) as folder:
            first = bench.start(name, folder)
            first.until(lambda name=name, folder=folder: any((folder / JOBS[name].leaves).rglob(".lock")))
            second = bench.start(name, folder).wait()
            ended = [first.wait(), second]
            # What the first has left must need no second time; only training refuses to begin again.
            last = [first] if name == "train" else None
            yield bench.row(name, "started twice at once", ended, [0, 2], refused, folder, last)
    with bench.folder("leaderboard") as folder:
        both = [bench.start("leaderboard", folder) for _ in range(2)]
        yield bench.row("leaderboard", "started twice at once", [each.wait() for each in both], [0, 0], "", folder)


def full_disks(bench: Bench, draw: random.Random) -> Iterator[Row]:
    """The disk that is written to holds almost nothing, or half of what comes; then there is space again."""
    full = "^the disk is full, .* free some space and run the same command again"
    for name, job in JOBS.items():
        whole = sum(path.stat().st_size for path in (bench.straight / job.leaves).rglob("*") if path.is_file())
        for how, size in (("at once", 8192), ("halfway", whole // 2)):
            with bench.folder(name) as folder, small_disk(folder / job.leaves, size) as disk:
                ended = bench.start(name, folder).wait()
                disk.grow()
                yield bench.row(name, f"disk full {how}", [ended], [2], full, folder)


def read_only(bench: Bench, draw: random.Random) -> Iterator[Row]:
    """The folder that is written to is read-only; then it is not."""
    for name, job in JOBS.items():
        with bench.folder(name) as folder, small_disk(folder / job.leaves, None) as disk:
            disk.write_protect(True)
            ended = bench.start(name, folder).wait()
            disk.write_protect(False)
            yield bench.row(name, "read-only folder", [ended], [2], "^cannot write .*Read-only", folder)
    with bench.folder("leaderboard") as folder, small_disk(folder / "verdicts", None) as disk:
        shutil.copytree(folder / "results", folder / "verdicts" / "results")
        shutil.rmtree(folder / "results")
        (folder / "results").symlink_to(folder / "verdicts" / "results")
        disk.write_protect(True)
        ended = bench.start("leaderboard", folder).wait()
        yield bench.row("leaderboard", "verdicts in a read-only folder, --out elsewhere", [ended], [0], "", folder)


def _cut(path: Path) -> None:
    """What a copy that was broken off leaves."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def damages(bench: Bench, draw: random.Random) -> Iterator[Row]:
    """Files that were cut short or are not what they should be; then they are deleted or mended, as they were told."""
    damaged = " is damaged; delete it and run the same evaluation again"

    def unit(folder: Path, label: str, suffix: str = ".parquet") -> Path:
        (found,) = (folder / "results").rglob(f"{label}@*{suffix}")
        return found

    def unfinished(folder: Path, label: str) -> Path:
        complete = unit(folder, label)
        parts = complete.with_suffix(".parts")
        parts.mkdir()
        return complete.rename(parts / "000000.parquet")

    def record(folder: Path, content: object) -> Path:
        """In the place of the complete file, what an interrupted search of another package keeps."""
        complete = unit(folder, "pyautoattack_apgd-ce")
        complete.with_suffix(".parts").mkdir()
        complete.unlink()
        path = complete.with_suffix(".parts") / "record-000000.npz"
        np.savez(path, x_adv=np.array([content], dtype=object if not isinstance(content, float) else float))
        return path

    def eval_with(fault: str, make: Callable[[Path], Path], cut: bool = True) -> Row:
        with bench.folder("eval", done=True) as folder:
            path = make(folder)
            if cut:
                _cut(path)
            ended = bench.start("eval", folder).wait()
            path.unlink()
            return bench.row("eval", fault, [ended], [2], damaged, folder)

    yield eval_with("a complete verdict file is cut short", lambda folder: unit(folder, "pgd-20"))
    yield eval_with("a part of the verdicts is cut short", lambda folder: unfinished(folder, "square"))
    yield eval_with("the record of a search is cut short", lambda folder: record(folder, 1.0))
    _Bomb.mark = bench.root / "ran"
    row = eval_with("the record of a search would run code", lambda folder: record(folder, _Bomb()), cut=False)
    yield row | ({"nothing lost": "no: the code ran", "passes": "NO"} if _Bomb.mark.exists() else {})
    yield eval_with("a measurement is cut short", lambda folder: next((folder / "results").rglob("sanity-*.json")))
    with bench.folder("leaderboard") as folder:
        path = unit(folder, "square")
        kept = path.read_bytes()
        _cut(path)
        ended = bench.start("leaderboard", folder).wait()
        path.write_bytes(kept)
        yield bench.row("leaderboard", "a complete verdict file is cut short", [ended], [2], damaged, folder)
    with bench.folder("eval", done=True) as folder:
        (path,) = (folder / "results").rglob("model.json")
        path.write_text("{not json")
        ended = Command(["leaderboard", "results", "--out", "elsewhere"], folder).wait()
        sentence = "model.json is damaged .*run the evaluation again"
        yield bench.row("eval", "model.json is garbage, seen by leaderboard", [ended], [2], sentence, folder)
    with bench.folder("eval") as folder:
        path = folder / "runs" / "net" / "best.safetensors"
        kept = path.read_bytes()
        _cut(path)
        ended = bench.start("eval", folder).wait()
        path.write_bytes(kept)
        yield bench.row("eval", "the checkpoint is cut short", [ended], [2], "is cut short or damaged", folder)
    with bench.folder("train") as folder:
        begun = bench.start("train", folder).until((folder / "runs" / "net" / "last.safetensors").exists)
        begun.after(0.2).send(signal.SIGKILL).wait()
        path = folder / "runs" / "net" / "training.pt"
        kept = path.read_bytes()
        _cut(path)
        ended = bench.again("train", folder).wait()
        path.write_bytes(kept)
        yield bench.row(
            "train", "the saved state is cut short", [ended], [2], "is damaged and cannot be resumed", folder
        )


class _Bomb:
    """An object whose unpickling leaves a file."""

    mark: Path

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (self.mark,)  # type: ignore[return-value]


def swaps(bench: Bench, draw: random.Random) -> Iterator[Row]:
    """Another net takes the place of the checkpoint while it is evaluated."""
    with bench.folder("eval") as folder:
        Command([*_TRAIN, "--seed", "1", "--out", "other"], folder).wait()
        other = (folder / "other" / "net" / "best.safetensors").read_bytes()
        for how in ("replaced", "overwritten in place"):
            shutil.rmtree(folder / "results", ignore_errors=True)
            path = folder / "runs" / "net" / "best.safetensors"
            shutil.copy(bench.straight / "runs" / "net" / "best.safetensors", path)
            running = bench.start("eval", folder)
            running.until(lambda: any((folder / "results").rglob("fgsm*.parquet")))
            if how == "replaced":
                (folder / "new").write_bytes(other)
                (folder / "new").replace(path)
            else:
                path.write_bytes(other)
            ended = running.wait()
            yield bench.row("eval", f"the checkpoint is {how} meanwhile", [ended], [0], "", folder, [running])
        # The same command now means another net: its verdicts lie beside the others, which stay as they were.
        ended = bench.start("eval", folder).wait()
        first, found = bench.expected["eval"], what_is_left(folder / "results")
        verdicts = [name for name in first if "/" in name]
        models = {name.split("/")[0] for name in found if "/" in name}
        intact = all(found.get(name) == first[name] for name in verdicts) and len(models) == 2
        alone = Path(tempfile.mkdtemp(dir=bench.root))
        shutil.copytree(folder / "runs", alone / "runs")
        Command(_EVAL, alone).wait()
        expected = what_is_left(alone / "results")
        intact = intact and all(found.get(name) == digest for name, digest in expected.items() if "/" in name)
        yield {
            "case": "eval",
            "fault": "the same command after the checkpoint was changed",
            "ended with": str(ended.code),
            "sentence": " / ".join(ended.sentences),
            "nothing lost": "yes" if intact else "no",
            "passes": "yes" if intact and ended.code == 0 else "NO",
        }


def trainers(bench: Bench, draw: random.Random) -> Iterator[Row]:
    """One of two processes that train together is killed."""
    words = [*_TRAIN, "--devices", "2"]
    with bench.folder("train") as straight, bench.folder("train") as folder:
        Command(words, straight, whole=True).wait()
        expected = what_is_left(straight / "runs")
        running = Command(words, folder, whole=True)
        running.until((folder / "runs" / "net" / "last.safetensors").exists)
        for child in _children(running.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        ended = running.wait()
        last = Command([*words, "--resume"], folder, whole=True).wait()
        wrong = differences(expected, what_is_left(folder / "runs")) + left_over(folder / "runs")
        told = len(ended.sentences) == 1 and "another process of this run has ended" in ended.sentences[0]
        yield {
            "case": "train --devices 2",
            "fault": "the second process killed",
            "ended with": f"{ended.code}, then {last.code}",
            "sentence": " / ".join(_tidy(line, folder) for line in ended.sentences),
            "nothing lost": "yes" if not wrong else f"no: {', '.join(wrong)}",
            "passes": "yes" if (ended.code, last.code) == (2, 0) and told and not wrong else "NO",
        }


def _children(parent: int) -> list[int]:
    paths = Path("/proc").glob(f"{parent}/task/*/children")
    return [int(word) for path in paths for word in path.read_text().split()]


Part = Callable[[Bench, random.Random], Iterator[Row]]
PARTS: dict[str, Part] = {
    **{f"kill -9 {name}": partial(kills, name=name) for name in ("train", "eval", "leaderboard")},
    "signals": signals,
    "several processes": processes,
    "several trainers": trainers,
    "two writers": writers,
    "full disk": full_disks,
    "read-only": read_only,
    "damaged files": damages,
    "changed checkpoint": swaps,
}
_MOUNTED = ("full disk", "read-only")


def _rows(bench: Bench, part: str, seed: int) -> list[Row]:
    """One part of the table, told as it comes."""
    if part in _MOUNTED and not can_mount(bench.root):
        return [{"part": part, "case": "all", "fault": "skipped: only root may mount", "passes": "skipped"}]
    rows = []
    for row in PARTS[part](bench, random.Random(f"{part} {seed}")):
        rows.append({"part": part, **row})
        print(f"{row['passes']:<4} {row['case']}: {row['fault']}", file=sys.stderr, flush=True)
    return rows


def main(
    parts: Annotated[str, typer.Option(help="Names with commas, or all.")] = "all",
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Parts at work at once.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder, or CSV, for the table.")] = None,
) -> None:
    """Run the matrix, print it, and leave with code 1 unless all of it passes."""
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
    timing.publish("faults", "Faults", table, last, threads=1, device=cpu, out=out)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    try:
        typer.run(main)
    except AdvdpnpError as error:
        sys.exit(str(error))
