"""Commands of advdpnp, each in a process of its own, and what they leave behind apart from times.

The processes are forks of a server that has imported everything and computed nothing: fresh ones without the start-up.
"""

import hashlib
import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pyarrow.parquet as pq
from safetensors import safe_open

from advdpnp.eval.store.index import INDEX, read_index

_IMPORTED = [
    "advdpnp.cli", "advdpnp.commands.support.console", "advdpnp.training.trainer", "advdpnp.eval.report.write",
    "advdpnp.eval.run.evaluate", "advdpnp.corruption.sheet", "torchattacks", "pyautoattack",
    "benchmarks.fault_injection.commands",
]  # fmt: skip
_TIMES = ("seconds", "date")  # columns and entries in which two runs of the same command differ
_CLOCK = re.compile(
    r'\d{4}-\d\d-\d\d(?:T[\d:.+]+)?|"seconds":[\d.]+|<dt>seconds</dt><dd[^>]*>[^<]*'
)  # the same in a page
_LOOK = 0.002  # seconds between two looks at a condition
_LIMIT = 600.0  # seconds until a command counts as stuck

Condition = Callable[[], bool]


class Process(Protocol):
    """What a forked and a started process share."""

    pid: int | None

    def join(self, timeout: float | None = None) -> None: ...


@dataclass(frozen=True)
class Ended:
    """How a command has ended: exit code (negative: the signal that killed it), what it said, and after how long."""

    code: int
    said: str
    seconds: float

    @property
    def sentences(self) -> list[str]:
        """What the program itself had to say about its end."""
        return [line.removeprefix("advdpnp: ") for line in self.said.splitlines() if line.startswith("advdpnp: ")]


@dataclass
class Command:
    """One running command.

    Attributes:
        words: after ``advdpnp``.
        folder: where it runs; what it says goes to a file beside it.
        variables: of its environment.
        whole: start the interpreter anew instead of forking; for what starts itself again.
    """

    words: Sequence[str]
    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False

    def __post_init__(self) -> None:
        self.log = self.folder.with_name(f"{self.folder.name}.{os.urandom(4).hex()}.log")
        self._begun = time.monotonic()
        if self.whole:
            with open(self.log, "wb") as log:
                self._started = subprocess.Popen(
                    [sys.executable, "-m", "advdpnp", *self.words], cwd=self.folder,
                    env={**os.environ, **self.variables}, stdout=subprocess.DEVNULL, stderr=log,
                )  # fmt: skip
            self.pid = self._started.pid
            return
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED)
        arguments = (list(self.words), str(self.folder), dict(self.variables), str(self.log))
        self._forked = context.Process(target=_call, args=arguments)
        self._forked.start()
        assert self._forked.pid is not None
        self.pid = self._forked.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._started.poll() is None if self.whole else self._forked.is_alive()

    def until(self, condition: Condition) -> "Command":
        """Wait until the condition holds or the command has ended."""
        while self.running and not condition():
            time.sleep(_LOOK)
        return self

    def after(self, seconds: float) -> "Command":
        """Wait so long, or until it has ended."""
        end = time.monotonic() + seconds
        return self.until(lambda: time.monotonic() >= end)

    def send(self, number: int) -> "Command":
        """Send a signal, if it is still running."""
        if self.running:
            os.kill(self.pid, number)
        return self

    def wait(self) -> Ended:
        """Wait for its end; one that is stuck is killed."""
        while self.running and time.monotonic() - self._begun < _LIMIT:
            time.sleep(_LOOK)
        self.send(signal.SIGKILL)
        if self.whole:
            code = self._started.wait()
        else:
            self._forked.join()
            code = self._forked.exitcode if self._forked.exitcode is not None else -1
        return Ended(code, self.log.read_text(encoding="utf-8", errors="replace"), time.monotonic() - self._begun)


def _call(words: list[str], folder: str, variables: dict[str, str], log: str) -> None:
    """In the new process: what the command line does."""
    import torch

    from advdpnp.cli import run

    os.chdir(folder)
    os.environ.update(variables)
    torch.set_num_threads(1)
    sys.argv = ["advdpnp", *words]
    with open(log, "wb") as stream, open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    code = 1
    try:
        code = run(words)
        sys.stderr.flush()
    finally:
        os._exit(code)  # a process that was killed, or a bug, must not come back into this script


def what_is_left(folder: Path) -> dict[str, str]:
    """A digest of everything in and below a folder that is a result, apart from times, by its path.

    Locks, unfinished and hidden files are no results; nor is a saved state of training, beside the nets that it became.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.name != "training.pt":
            found[name] = hashlib.sha256(_READERS.get(path.suffix, Path.read_bytes)(path)).hexdigest()
    return found


def left_over(folder: Path) -> list[str]:
    """Files that only a process at work may have: half-written ones, parts."""
    wanted = re.compile(r"\.tmp$|\.new$|\.parts/")
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if wanted.search(name))


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if key not in _TIMES}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


def _table(path: Path) -> bytes:
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return str(frame.drop(columns=[name for name in _TIMES if name in frame]).to_csv()).encode()


def _rows(path: Path) -> bytes:
    """Rows of a data file; images come in the order in which they were found."""
    frame = pq.ParquetFile(path).read().to_pandas()
    text = io.StringIO()
    frame.sort_values(["unit", "sample"]).to_csv(text, float_format="%.17g")
    return text.getvalue().encode()


def _units(path: Path) -> bytes:
    """What is complete, but for the runs that found it and the files of images, whose rows have no order."""
    index = read_index(path.parent)
    assert index is not None
    records = [asdict(replace(record, runs=[])) for record in index.evaluations]
    return json.dumps([records, [asdict(each) for each in index.diagnostics]], sort_keys=True).encode()


def _weights(path: Path) -> bytes:
    with safe_open(path, framework="np") as file:
        header = {key: _without_times(json.loads(value)) for key, value in (file.metadata() or {}).items()}
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    return json.dumps(header, sort_keys=True).encode() + b"".join(
        f"{name}{each.dtype}{each.shape}".encode() + each.tobytes() for name, each in tensors.items()
    )


def _json(path: Path) -> bytes:
    if path.name == INDEX:
        return _units(path)
    return json.dumps(_without_times(json.loads(path.read_text(encoding="utf-8")))).encode()


def _page(path: Path) -> bytes:
    return _CLOCK.sub("", path.read_text(encoding="utf-8")).encode()


_READERS: dict[str, Callable[[Path], bytes]] = {
    ".html": _page, ".csv": _table, ".parquet": _rows, ".safetensors": _weights, ".json": _json,
}  # fmt: skip
