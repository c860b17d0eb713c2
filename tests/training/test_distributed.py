"""Several processes train the same net as one."""

import os
import subprocess
import sys

import pytest
import torch

from advdpnp.base.errors import AdvdpnpError
from advdpnp.cli import run
from advdpnp.commands.support.console import first_process
from advdpnp.commands.support.training import training_bar
from advdpnp.models.checkpoint import load_checkpoint
from advdpnp.training.trainer import Hardware

SCRIPT = '''
import sys
from pathlib import Path

import torch
from torch import nn

from advdpnp.datasets.base import Dataset, Split
from advdpnp.models import MODELS
from advdpnp.training.recipe import resolve_recipe
from advdpnp.training.trainer import Hardware, train

torch.set_num_threads(1)


class Flat(nn.Module):
    """A net without BatchNorm, which would see other batches in other numbers of processes."""

    width = 12

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 12))

    def forward(self, x):
        return self.layers(x)


MODELS.register("flat", description="a test's")(lambda channels, image_size: Flat())


def split(n, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    images = torch.randint(0, 90, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist()):
        image[:, 4 * (label // 2) :, 4 * (label % 2) :][:, :4, :4] += 120
    return Split(images, labels)


data = Dataset("quadrants", tuple("abcd"), split(96, 0), split(32, 1), split(32, 2), augmentation="crop-flip")
values = {"epochs": 2, "batch_size": 32, "attack.steps": 3, "attack.eps": "0.1", "model.architecture": "flat",
          "precision": "64-true", "validation_steps": 2, "optimiser.lr": 0.05}
recipe = resolve_recipe("adv-dpnp", "none", values)
if len(sys.argv) > 1:
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    train(recipe, data, folder, hardware=Hardware("cpu", devices=devices))
'''

# One process imports torch; each pair of processes are forks of it, told what a launcher would tell them.
STOPPED = """
import os
import signal
import socket
import traceback


def stop(progress):
    if progress.epoch:
        os.kill(os.getpid(), signal.SIGINT)


def rank(place, port, folder, report):
    told = {"RANK": place, "LOCAL_RANK": place, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in told.items()} | {"TORCHELASTIC_RUN_ID": folder}
    code = 1
    try:
        train(recipe, data, Path(folder), hardware=Hardware("cpu", devices=2), resume=True, report=report)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


for folder, report in (("straight", lambda progress: None), ("stopped", stop), ("stopped", lambda progress: None)):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for place in (0, 1):
        if not (pid := os.fork()):
            rank(place, port, folder, report)
        pids.append(pid)
    print("codes", *(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids), flush=True)
"""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}


@pytest.mark.slow
def test_two_processes_train_the_same_weights_as_one(tmp_path):
    """In float64, to 1e-10: the mean of two means is rounded otherwise than the mean over the whole batch."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    one = subprocess.run(
        [sys.executable, script, tmp_path / "one", "1"], env=environment(), capture_output=True, text=True
    )
    assert one.returncode == 0, one.stderr
    two = subprocess.run([*torchrun, script, tmp_path / "two", "2"], env=environment(), capture_output=True, text=True)
    assert two.returncode == 0, two.stderr
    states = [torch.load(tmp_path / run / "training.pt", weights_only=True)["network"] for run in ("one", "two")]
    for name, value in states[0].items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=1e-10, msg=name)


@pytest.mark.slow
def test_two_processes_that_were_stopped_continue_to_the_same_weights(tmp_path):
    """To the bit, with BatchNorm: between two steps each process has statistics of its own, and sums of the terms."""
    (tmp_path / "script.py").write_text(SCRIPT.replace("nn.Tanh(),", "nn.BatchNorm1d(24), nn.Tanh(),") + STOPPED)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    codes = [line.split() for line in done.stdout.splitlines() if line.startswith("codes ")]
    assert codes == [["codes", "0", "0"], ["codes", "1", "1"], ["codes", "0", "0"]]
    assert "stopped in epoch 2 of 2 and saved" in done.stderr
    one, other = (torch.load(tmp_path / run / "training.pt", weights_only=True) for run in ("straight", "stopped"))
    for name, value in one["network"].items():
        assert torch.equal(value, other["network"][name]), name
    for before, after in zip(one["metrics"], other["metrics"], strict=True):
        assert {**before, "seconds": 0} == {**after, "seconds": 0}


@pytest.mark.slow
def test_the_command_line_starts_its_own_processes(tmp_path):
    words = ["train", "--recipe", "ce", "--dataset", "digits", "--epochs", "1", "--devices", "2", "--device", "cpu"]
    words += ["--name", "two", "--set", "validation_steps=1"]
    done = subprocess.run(
        [sys.executable, "-m", "advdpnp", *words], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1 epoch, ") == 1  # the second process keeps quiet
    assert done.stderr.count("epoch 1/1") == 1
    assert "GLOBAL_RANK: 1" not in done.stderr
    bars = [line for line in done.stderr.splitlines() if line.startswith("two ") and "left" in line]
    assert len(bars) == 1
    _, header = load_checkpoint(tmp_path / "runs" / "two" / "best.safetensors")
    assert header["method"] == "ce"


@pytest.mark.slow
def test_an_error_that_all_processes_meet_is_told_once(tmp_path):
    """Two processes cannot share a batch of 63, which each of them finds out by itself."""
    words = ["train", "--recipe", "ce", "--dataset", "digits", "--epochs", "1", "--devices", "2", "--device", "cpu"]
    words += ["--set", "batch_size=63"]
    done = subprocess.run(
        [sys.executable, "-m", "advdpnp", *words], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("advdpnp: ") == 1, done.stderr
    assert "cannot be split among 2 processes" in done.stderr


@pytest.fixture
def no_launcher(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "ADVDPNP_DEBUG"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "processes", "first"),
    [
        ({}, 1, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, 2, True),
        ({"RANK": "2", "LOCAL_RANK": "0"}, 4, False),  # the second machine of torchrun
        ({"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": "1"}, 4, True),  # torchrun inside a SLURM job
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, 2, False),  # what Lightning Fabric starts
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, 4, False),
        ({"SLURM_PROCID": "1"}, 2, False),
        ({"SLURM_PROCID": "1"}, 1, True),  # tasks that each train a net of their own
    ],
)
def test_which_process_speaks(variables, processes, first, no_launcher, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert first_process(processes) is first


@pytest.mark.parametrize("words", [["--dataset", "cifar11"], ["--epochs", "many"]])
def test_all_but_the_first_process_are_silent_and_exit_with_code_2(words, no_launcher, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run(["train", "--devices", "2", *words]) == 2
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert run(["train", "--devices", "2", *words]) == 2
    assert capsys.readouterr().err.startswith("advdpnp: ")


def test_what_one_process_alone_meets_can_be_seen(no_launcher, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("ADVDPNP_DEBUG", "1")
    assert run(["train", "--devices", "2", "--dataset", "cifar11"]) == 2
    assert "cifar11" in capsys.readouterr().err


def test_a_bar_that_is_not_shown_draws_nothing(capsys):
    with training_bar("second", shown=False) as report:
        report(None)
    assert capsys.readouterr() == ("", "")


def test_torchrun_and_devices_must_agree(no_launcher, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AdvdpnpError, match=r"torchrun started 2 processes.*set --devices"):
        Hardware("cpu").fabric("32-true")
