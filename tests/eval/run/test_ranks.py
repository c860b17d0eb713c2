"""Several processes, one evaluation: the same verdicts, whoever dies and however many continue."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from advdpnp.base.errors import AdvdpnpError
from advdpnp.cli import run as run_cli
from advdpnp.eval.run.ranks import FOLDER, Shard, shard_of_environment
from advdpnp.eval.store.data_files import read_images
from advdpnp.eval.store.reader import find_results

# One process imports torch; every rank is a fork of it, so that a start takes milliseconds.
SERVER = """
import json, os, sys, time, traceback
from pathlib import Path
import matplotlib.figure, sklearn, torch
from torch import nn
from advdpnp.attacks.algorithms.pgd import PGD
from advdpnp.base.compat import import_pyautoattack
from advdpnp.datasets import Dataset, Split
from advdpnp.models.checkpoint import weights_hash
from advdpnp.eval.run.components import Components
from advdpnp.eval.api import evaluate_models
from advdpnp.eval.run.ranks import shard_of_environment
from advdpnp.eval.store import writer
from advdpnp.models.loading import LoadedModel

writer.FLUSH_SECONDS = 0.0  # so that the first verdicts are seen while others are searched for
import_pyautoattack()

def evaluate(out, rank, world, slow, keep):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    tell = PGD.tell
    def slowly(self, *arguments):
        time.sleep(slow)
        return tell(self, *arguments)
    PGD.tell = slowly
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    with torch.no_grad():
        weight = torch.randn(4, 36, generator=generator)
        net[1].weight.copy_(weight - weight.mean(1, keepdim=True))
        net[1].bias.zero_()
    images = torch.randint(0, 256, (24, 1, 6, 6), generator=generator, dtype=torch.uint8)
    labels = net(images / 255).argmax(1)
    labels[::9] = (labels[::9] + 1) % 4
    empty = Split(images[:0], labels[:0])
    data = Dataset("toy", tuple("abcd"), empty, empty, Split(images, labels), "none")
    model = LoadedModel(net.eval(), "net", weights_hash(net), "Linear", "", 148, {})
    evaluate_models([model], data, out=Path(out), attacks="fgsm,pgd-4,pyautoattack:apgd-ce", eps=["0.02"],
                    device="cpu", shard=shard_of_environment(), command="test", save_adversarials=keep,
                    components=Components(static_batch_size=4, patience=5.0))

for line in sys.stdin:
    order = json.loads(line)
    if isinstance(order, int):
        print(os.waitstatus_to_exitcode(os.waitpid(order, 0)[1]), flush=True)
        continue
    if child := os.fork():
        print(child, flush=True)
        continue
    code = 1
    try:
        evaluate(*order)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
"""


class Rank:
    """One process of an evaluation, a fork of the server."""

    def __init__(self, server: subprocess.Popen[str], order: list[Any]) -> None:
        self.server = server
        self.pid = int(self._ask(order))

    def _ask(self, order: Any) -> str:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return self.server.stdout.readline()

    def wait(self) -> int:
        return int(self._ask(self.pid))

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL


Start = Callable[..., Rank]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:

        def begin(out: Path, rank: int, world: int, slow: float = 0.0, keep: bool = True) -> Rank:
            return Rank(server, [str(out), rank, world, slow, keep])

        yield begin
        assert server.stdin is not None
        server.stdin.close()


def finish(*ranks: Rank) -> None:
    assert [rank.wait() for rank in ranks] == [0] * len(ranks)


def wait_for(folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.rglob(pattern)):
        assert time.monotonic() < deadline, f"no {pattern} in {folder}"
        time.sleep(0.01)


def verdicts(out: Path) -> dict[str, pd.DataFrame]:
    return {unit.label: unit.frame for unit in find_results([out])}


def images(out: Path) -> dict[str, dict[int, tuple[bytes | None, ...]]]:
    """Stored adversarial images by attack and sample."""
    found = {}
    for unit in find_results([out]):
        rows = [row for table in read_images(unit.folder, unit.hash) for row in table.to_pylist()]
        samples = [row["sample"] for row in rows]
        assert len(set(samples)) == len(rows)
        assert unit.threat is None or set(range(8)) <= set(samples)  # for figures, whatever became of them
        if unit.record.saved:
            needed = set(unit.needs_image.tolist())
            found[unit.label] = {row["sample"]: tuple(row.values()) for row in rows if row["sample"] in needed}
    return found


@pytest.fixture(scope="module")
def alone(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process finds."""
    out = tmp_path_factory.mktemp("alone")
    finish(start(out, 0, 1))
    return out


def assert_same(out: Path, alone: Path) -> None:
    found, kept, expected = verdicts(out), images(out), verdicts(alone)
    assert "clean" not in kept
    for label in expected.keys() - {"clean"}:
        frame = expected[label]
        broken = frame[frame["success"] & (frame["clean_prediction"] == frame["label"])]
        assert len(broken) > 3
        assert sorted(kept[label]) == broken["sample"].tolist()
    assert found.keys() == expected.keys()
    for label, frame in expected.items():
        pd.testing.assert_frame_equal(found[label], frame)


def test_two_processes_find_what_one_finds(start: Start, tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "two"
    both = [start(out, rank, 2, slow=0.02) for rank in (0, 1)]
    finish(*both)
    assert_same(out, alone)
    assert (out / "leaderboard.csv").exists()
    assert sum(len(unit.examples()["sample"]) == 8 for unit in find_results([out])) == 3
    runs = find_results([out])
    shared = next(unit for unit in runs if unit.label == "pgd-4").verdicts.info["runs"]
    assert sum(run["samples"] for run in shared) == 24
    assert not list((out / FOLDER).rglob("*.parquet"))  # all of it was gathered
    assert images(out) == images(alone)


def test_the_first_process_does_the_work_of_one_that_died(start: Start, tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "died"
    first, second = start(out, 0, 2, slow=0.05), start(out, 1, 2, slow=0.4)
    wait_for(out / FOLDER / "1", "model.json")
    second.kill()
    finish(first)
    assert_same(out, alone)


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_run_is_continued_by_any_number_of_processes(
    start: Start, tmp_path: Path, alone: Path, after: int
) -> None:
    out = tmp_path / "again"
    both = [start(out, rank, 2, slow=0.2) for rank in (0, 1)]
    wait_for(out / FOLDER / "1", "pgd-4*/*.parquet")
    for process in both:
        process.kill()
    finish(*(start(out, rank, after) for rank in range(after)))
    assert_same(out, alone)


def test_images_are_made_for_verdicts_that_are_there_whoever_found_them(
    start: Start, tmp_path: Path, alone: Path
) -> None:
    out = tmp_path / "later"
    both = [start(out, rank, 2, slow=0.2, keep=False) for rank in (0, 1)]
    wait_for(out / FOLDER / "1", "pgd-4*/*.parquet")
    for process in both:
        process.kill()
    assert images(out) == {}
    finish(*(start(out, rank, 2) for rank in range(2)))
    assert_same(out, alone)
    assert images(out) == images(alone)


def test_shares_are_all_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.arange(100, 123)
    shares = [Shard(rank, 4).share(samples) for rank in range(4)]
    assert sorted(np.concatenate(shares).tolist()) == samples.tolist()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Shard()),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Shard(1, 4, 1)),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "3"}, Shard(2, 3, 0)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Shard()),
        ({"RANK": "0", "WORLD_SIZE": "1", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Shard(1, 2, 0)),
    ],
)
def test_the_environment_says_which_process_this_is(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: Shard
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert shard_of_environment() == expected


@pytest.mark.parametrize("rank", ["4", "-1", "x"])
def test_nonsense_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(AdvdpnpError, match="RANK"):
        shard_of_environment()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["eval"], "nothing to evaluate"),
        (["eval", "--dataset", "digits", "--model", "net_of_a_stranger:make", "--attacks", "pgdd-3"], "pgdd-3"),
    ],
)
def test_a_mistake_of_the_user_is_told_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    net = "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))\n"
    (tmp_path / "net_of_a_stranger.py").write_text(net, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "3")
    said = []
    for rank in "012":
        monkeypatch.setenv("RANK", rank)
        assert run_cli(arguments) == 2
        said.append(capsys.readouterr().err)
    assert sentence in said[0]
    assert said[1:] == ["", ""]
