"""Faults that stop a command: signals, dead processes, two writers, full and read-only disks, a changed checkpoint."""

import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.fault_injection.bench import EVAL, JOBS, TRAIN, Bench, differences, tidy
from benchmarks.fault_injection.commands import Command, left_over, what_is_left
from benchmarks.fault_injection.full_disk import small_disk
from benchmarks.timing import Row

KILLS = 10
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STOPPED = r"^stopped[; ]"


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
        for number in STOPPING:
            yield struck(bench, name, number, 0.15 + 0.5 * draw.random(), 2, _STOPPED)


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


def swaps(bench: Bench, draw: random.Random) -> Iterator[Row]:
    """Another net takes the place of the checkpoint while it is evaluated."""
    with bench.folder("eval") as folder:
        Command([*TRAIN, "--seed", "1", "--out", "other"], folder).wait()
        other = (folder / "other" / "net" / "best.safetensors").read_bytes()
        for how in ("replaced", "overwritten in place"):
            shutil.rmtree(folder / "results", ignore_errors=True)
            path = folder / "runs" / "net" / "best.safetensors"
            shutil.copy(bench.straight / "runs" / "net" / "best.safetensors", path)
            running = bench.start("eval", folder)
            running.until(lambda: any((folder / "results").rglob("attacks.parquet")))
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
        Command(EVAL, alone).wait()
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
    words = [*TRAIN, "--devices", "2"]
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
            "sentence": " / ".join(tidy(line, folder) for line in ended.sentences),
            "nothing lost": "yes" if not wrong else f"no: {', '.join(wrong)}",
            "passes": "yes" if (ended.code, last.code) == (2, 0) and told and not wrong else "NO",
        }


def _children(parent: int) -> list[int]:
    paths = Path("/proc").glob(f"{parent}/task/*/children")
    return [int(word) for path in paths for word in path.read_text().split()]
