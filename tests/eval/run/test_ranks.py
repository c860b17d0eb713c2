"""Several processes, one evaluation: the same verdicts, whoever dies and however many continue."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from advdpnp.base.errors import AdvdpnpError
from advdpnp.cli import run as run_cli
from advdpnp.eval.run.ranks import FOLDER, Shard, shard_of_environment
from advdpnp.eval.store.adversarial_images import SUFFIX
from advdpnp.eval.store.reader import find_results

SCRIPT = """
import sys, time
from pathlib import Path
import torch
from torch import nn
from advdpnp.attacks.algorithms.pgd import PGD
from advdpnp.datasets import Dataset, Split
from advdpnp.models.checkpoint import weights_hash
from advdpnp.eval.run import model_run as run_module, ranks as shards
from advdpnp.eval.run.evaluate import evaluate_models
from advdpnp.eval.run.ranks import shard_of_environment
from advdpnp.models.loading import LoadedModel

torch.set_num_threads(1)
run_module.DEFAULT_STATIC_BATCH_SIZE = 4
shards._PATIENCE = 5.0
out, slow, keep = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "keep"
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
print("begin", flush=True)
evaluate_models([model], data, out=out, attacks="fgsm,pgd-4,pyautoattack:apgd-ce", eps=["0.02"], device="cpu",
                shard=shard_of_environment(), command="test", save_adversarials=keep)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "evaluate.py"
    path.write_text(SCRIPT)
    return path


def start(
    script: Path, out: Path, rank: int, world: int, slow: float = 0.0, keep: bool = True
) -> subprocess.Popen[str]:
    environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(script), str(out), str(slow), "keep" if keep else ""], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def verdicts(out: Path) -> dict[str, pd.DataFrame]:
    return {unit.label: unit.frame for unit in find_results([out])}


def images(out: Path) -> dict[str, dict[int, tuple[bytes | None, ...]]]:
    """Stored adversarial images by attack and sample."""
    found = {}
    for unit in find_results([out]):
        path = unit.verdicts.path.with_suffix(SUFFIX)
        if path.exists():
            table = pq.read_table(path)
            assert table.column("sample").to_pylist().count(None) == 0
            assert len(set(table.column("sample").to_pylist())) == len(table)
            rows = zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True)
            found[unit.label] = {sample: tuple(rest) for sample, *rest in rows}
    return found


@pytest.fixture(scope="module")
def alone(script: Path) -> dict[str, pd.DataFrame]:
    finish(start(script, script.parent / "alone", 0, 1))
    return verdicts(script.parent / "alone")


def assert_same(out: Path, expected: dict[str, pd.DataFrame]) -> None:
    found, kept = verdicts(out), images(out)
    for label, frame in expected.items():
        broken = frame[frame["success"] & (frame["clean_prediction"] == frame["label"])]
        assert sorted(kept.get(label, {})) == ([] if label == "clean" else broken["sample"].tolist())
        assert label == "clean" or len(broken) > 3
    assert found.keys() == expected.keys()
    for label, frame in expected.items():
        pd.testing.assert_frame_equal(found[label], frame)


def test_two_processes_find_what_one_finds(script: Path, tmp_path: Path, alone: dict[str, pd.DataFrame]) -> None:
    out = tmp_path / "two"
    both = [start(script, out, rank, 2, slow=0.02) for rank in (0, 1)]
    finish(*both)
    assert_same(out, alone)
    assert (out / "leaderboard.csv").exists()
    assert len(list(out.rglob("*.examples.npz"))) == 3
    runs = find_results([out])
    shared = next(unit for unit in runs if unit.label == "pgd-4").verdicts.info["runs"]
    assert sum(run["samples"] for run in shared) == 24
    assert not list((out / FOLDER).rglob("*.parquet"))  # all of it was gathered
    assert images(out) == images(script.parent / "alone")


def test_the_first_process_does_the_work_of_one_that_died(
    script: Path, tmp_path: Path, alone: dict[str, pd.DataFrame]
) -> None:
    out = tmp_path / "died"
    first, second = start(script, out, 0, 2, slow=0.05), start(script, out, 1, 2, slow=0.4)
    deadline = time.monotonic() + 60
    while not list((out / FOLDER / "1").rglob("model.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    finish(first)
    assert_same(out, alone)


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_run_is_continued_by_any_number_of_processes(
    script: Path, tmp_path: Path, alone: dict[str, pd.DataFrame], after: int
) -> None:
    out = tmp_path / "again"
    both = [start(script, out, rank, 2, slow=0.2) for rank in (0, 1)]
    deadline = time.monotonic() + 60
    while not list((out / FOLDER / "1").rglob("pgd-4*/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in both:
        process.kill()
        process.communicate()
    finish(*(start(script, out, rank, after) for rank in range(after)))
    assert_same(out, alone)


def test_images_are_made_for_verdicts_that_are_there_whoever_found_them(
    script: Path, tmp_path: Path, alone: dict[str, pd.DataFrame]
) -> None:
    out = tmp_path / "later"
    both = [start(script, out, rank, 2, slow=0.2, keep=False) for rank in (0, 1)]
    deadline = time.monotonic() + 60
    while not list((out / FOLDER / "1").rglob("pgd-4*/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in both:
        process.kill()
        process.communicate()
    assert images(out) == {}
    finish(*(start(script, out, rank, 2) for rank in range(2)))
    assert_same(out, alone)
    assert images(out) == images(script.parent / "alone")


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
