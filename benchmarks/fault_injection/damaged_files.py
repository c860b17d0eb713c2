"""Files that were cut short or hold something else; then they are deleted or restored, as the message says."""

import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from advdpnp.eval.store.adversarial_images import SUFFIX, write_adversarials
from advdpnp.eval.store.commit import commit
from advdpnp.eval.store.data_files import Contents, read_contents
from advdpnp.eval.store.model_folder import PARTS
from advdpnp.eval.store.writer import write_part
from benchmarks.fault_injection.bench import Bench
from benchmarks.fault_injection.commands import Command
from benchmarks.timing import Row

_DAMAGED = " is damaged; delete it and run the same evaluation again"


def damaged_files(bench: Bench, draw: random.Random) -> Iterator[Row]:
    """Verdicts and measurements of an evaluation, its checkpoint, its model record, and the state of a training."""
    yield _eval_with(bench, "a complete verdict file is cut short", _attacks)
    yield _eval_with(bench, "a part of the verdicts is cut short", lambda folder: _unfinished(folder, "square"))
    yield _eval_with(bench, "the record of a search is cut short", lambda folder: _record(folder, 1.0))
    _Bomb.mark = bench.root / "ran"
    fault = "the record of a search would run code"
    row = _eval_with(bench, fault, lambda folder: _record(folder, _Bomb()), cut=False)
    yield row | ({"nothing lost": "no: the code ran", "passes": "NO"} if _Bomb.mark.exists() else {})
    yield _eval_with(bench, "the index is cut short", lambda folder: _attacks(folder).with_name("units.json"))
    yield from _damaged_inputs(bench)


def _damaged_inputs(bench: Bench) -> Iterator[Row]:
    with bench.folder("leaderboard") as folder:
        path = _attacks(folder)
        kept = _cut(path)
        ended = bench.start("leaderboard", folder).wait()
        path.write_bytes(kept)
        yield bench.row("leaderboard", "a complete verdict file is cut short", [ended], [2], _DAMAGED, folder)
    with bench.folder("eval", done=True) as folder:
        (path,) = (folder / "results").rglob("model.json")
        path.write_text("{not json")
        ended = Command(["leaderboard", "results", "--out", "elsewhere"], folder).wait()
        sentence = "model.json is damaged .*run the evaluation again"
        yield bench.row("eval", "model.json is garbage, seen by leaderboard", [ended], [2], sentence, folder)
    with bench.folder("eval") as folder:
        path = folder / "runs" / "net" / "best.safetensors"
        kept = _cut(path)
        ended = bench.start("eval", folder).wait()
        path.write_bytes(kept)
        yield bench.row("eval", "the checkpoint is cut short", [ended], [2], "is truncated or damaged", folder)
    with bench.folder("train") as folder:
        begun = bench.start("train", folder).until((folder / "runs" / "net" / "last.safetensors").exists)
        begun.after(0.2).send(signal.SIGKILL).wait()
        path = folder / "runs" / "net" / "training.pt"
        kept = _cut(path)
        ended = bench.again("train", folder).wait()
        path.write_bytes(kept)
        sentence = "is damaged and cannot be resumed"
        yield bench.row("train", "the saved state is cut short", [ended], [2], sentence, folder)


def _eval_with(bench: Bench, fault: str, make: Callable[[Path], Path], *, cut: bool = True) -> Row:
    """An evaluation that finds the damaged file that ``make`` names; then the file is deleted."""
    with bench.folder("eval", done=True) as folder:
        path = make(folder)
        if cut:
            _cut(path)
        ended = bench.start("eval", folder).wait()
        path.unlink()
        return bench.row("eval", fault, [ended], [2], _DAMAGED, folder)


def _cut(path: Path) -> bytes:
    """Leave half of a file, as an interrupted copy does; returns all of it."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return content


def _attacks(folder: Path) -> Path:
    (found,) = (folder / "results").rglob("attacks.parquet")
    return found


def _unfinished(results: Path, label: str) -> Path:
    """Have a complete evaluation unfinished, all its verdicts in one part; returns that."""
    folder = _attacks(results).parent
    contents = read_contents(folder)
    assert contents is not None
    (record,) = [each for each in contents.index.evaluations if each.identity["label"] == label]
    unfinished = contents.evaluation(record)
    part = folder / PARTS / record.stem / "000000.parquet"
    if unfinished.images is not None:
        write_adversarials(part.with_suffix(SUFFIX), unfinished.images())
    write_part(part, unfinished.verdicts, record)
    empty = Contents(folder, replace(contents.index, files={}, evaluations=()), {})
    commit(empty, [contents.evaluation(each) for each in contents.index.evaluations if each is not record])
    return part


def _record(folder: Path, content: object) -> Path:
    """Replace a complete evaluation by the record that an interrupted search of another package keeps."""
    part = _unfinished(folder, "pyautoattack:apgd-ce")
    part.unlink()
    path = part.with_name("record-000000.npz")
    np.savez(path, x_adv=np.array([content], dtype=object if not isinstance(content, float) else float))
    return path


class _Bomb:
    """An object whose unpickling leaves a file."""

    mark: Path

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (self.mark,)  # type: ignore[return-value]
