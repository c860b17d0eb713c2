"""Several processes train the same net as one."""

import os
import subprocess
import sys

import pytest
import torch

from advdpnp.checkpoint import load_checkpoint

SCRIPT = '''
import sys
from pathlib import Path

import torch
from torch import nn

from advdpnp.datasets.base import Dataset, Split
from advdpnp.models import MODELS
from advdpnp.recipe import resolve_recipe
from advdpnp.trainer import Hardware, train

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
folder, devices = Path(sys.argv[1]), int(sys.argv[2])
train(recipe, data, folder, hardware=Hardware("cpu", devices=devices))
'''


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
def test_the_command_line_starts_its_own_processes(tmp_path):
    words = ["train", "--recipe", "ce", "--dataset", "digits", "--epochs", "1", "--devices", "2", "--device", "cpu"]
    words += ["--name", "two", "--set", "validation_steps=1"]
    done = subprocess.run(
        [sys.executable, "-m", "advdpnp", *words], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1 epochs") == 1  # the second process keeps quiet
    _, header = load_checkpoint(tmp_path / "runs" / "two" / "best.safetensors")
    assert header["method"] == "ce"
