"""A run that is killed with SIGKILL, at any moment, continues to the weights of the run that was not."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from advdpnp.training.recipe import resolve_recipe
from advdpnp.training.trainer import train

RECIPES = {"pgd-at": [], "adv-dpnp": ["--set", "average=0.9"]}
EVERY = {"pgd-at": 3, "adv-dpnp": 1}  # pgd-at writes as adv-dpnp does, so every third moment will do

# One process imports torch; every run is a fork of it that calls the command line, so that a kill costs no start-up.
DRIVER = """
import json
import os
import signal
import sys
from pathlib import Path

import torch

import advdpnp.commands.support.console
import advdpnp.datasets
import advdpnp.training.trainer
import advdpnp.training.training_run
from advdpnp.cli import run

writes = 0
originals = os.replace, torch.optim.SGD.step, advdpnp.training.training_run.validate


def arm(kind, count, interrupt):
    global writes
    seen = steps = writes = 0

    def die_if(this):
        nonlocal seen
        seen += this == kind
        if this == kind and seen == count:
            os.kill(os.getpid(), signal.SIGKILL)

    def replace(source, target):
        global writes
        writes += 1
        if kind == "half a file" and writes == count:
            os.truncate(source, os.path.getsize(source) // 2)
        die_if("half a file")
        originals[0](source, target)
        die_if("a whole file")

    def step(self, *arguments, **options):
        nonlocal steps
        steps += 1
        die_if("a step")
        if steps == interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        return originals[1](self, *arguments, **options)

    def validate(*arguments):
        die_if("a validation")
        return originals[2](*arguments)

    os.replace, torch.optim.SGD.step, advdpnp.training.training_run.validate = replace, step, validate


def train(name, *more, moment=("", 0, 0)):
    global writes
    reader, writer = os.pipe()
    if pid := os.fork():
        os.close(writer)
        writes = int(os.read(reader, 9) or 0)
        os.close(reader)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 99
    try:
        arm(*moment)
        code = run([*words, "--name", name, *more])
        os.write(writer, str(writes).encode())
    finally:
        os._exit(code)


every, *words = sys.argv[1:]
assert train("straight") == 0
files = "half a file", "a whole file"
moments = [(kind, count, 0) for kind in files for count in range(1, writes + 1)]
moments += [(kind, 8, 5) for kind in files]  # the eighth write is the state that Ctrl-C at step 5 leaves
moments += [("a step", 2, 0), ("a step", 5, 0), ("a validation", 2, 0)]
said = []
for place, moment in enumerate(moments[:: int(every)]):
    name = f"killed{place}"
    killed = train(name, moment=moment)
    folder = Path("runs", name)
    saved, left = (folder / "training.pt").exists(), [path.name for path in folder.glob("*.tmp")]
    plain = moment[0] == "a whole file" and not saved  # nothing to resume: both forms of the command must work
    resumed = train(name, *([] if plain else ["--resume"]))
    said.append({"name": name, "moment": moment, "saved": saved, "left": left, "codes": [killed, resumed]})
print(json.dumps(said))
"""


@pytest.fixture
def words(save_npz) -> list[str]:
    save_npz(120, 1)
    values = ("batch_size=16", "attack.steps=2", "validation_steps=2")
    settings = [word for value in values for word in ("--set", value)]
    return ["train", "--dataset", "npz:own.npz", "--eps", "0.1", "--device", "cpu", *settings]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def what_is_left(folder: Path) -> dict[str, torch.Tensor | str]:
    found: dict[str, torch.Tensor | str] = {}
    for name in ("best", "last", "class_vectors"):
        found |= {f"{name} {key}": value for key, value in load_file(folder / f"{name}.safetensors").items()}
    table = pd.read_csv(folder / "metrics.csv", dtype=str)
    return {**found, "metrics": table.drop(columns="seconds").to_csv()}


def assert_the_same(one: Path, other: Path, moment: object) -> None:
    ours, theirs = what_is_left(one), what_is_left(other)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        equal = torch.equal(value, theirs[key]) if isinstance(value, torch.Tensor) else value == theirs[key]
        assert equal, f"{key} after kills at {moment}"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_at_every_write_a_run_ends_in_the_same_weights(recipe, words, save_npz, tmp_path):
    save_npz(60, 1)  # three steps an epoch
    (tmp_path / "driver.py").write_text(DRIVER)
    arguments = [*words, "--recipe", recipe, "--epochs", "2", *RECIPES[recipe]]
    done = subprocess.run(
        [sys.executable, "driver.py", str(EVERY[recipe]), *arguments],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout.splitlines()[-1])
    assert len(kills) > 20 // EVERY[recipe]
    assert {kill["saved"] for kill in kills} == {False, True}
    assert any(kill["left"] for kill in kills)
    for kill in kills:
        assert kill["codes"] == [-9, 0], (kill, done.stderr)
        assert_the_same(tmp_path / "runs" / "straight", tmp_path / "runs" / kill["name"], kill["moment"])


@pytest.mark.slow
def test_the_command_line_killed_again_and_again_ends_in_the_same_weights(words, tmp_path):
    folder = tmp_path / "runs" / "killed"

    def start(name: str, *more: str) -> subprocess.Popen:
        arguments = [*words, "--recipe", "adv-dpnp", "--epochs", "4", "--set", "average=0.9", "--name", name, *more]
        return subprocess.Popen([sys.executable, "-m", "advdpnp", *arguments], cwd=tmp_path, env=environment())

    def kill_when(process: subprocess.Popen, moment: Callable[[], bool], delay: float = 0.0) -> int:
        while process.poll() is None and not moment():
            time.sleep(0.0005)
        time.sleep(delay)
        process.kill()
        return process.wait()

    straight = start("straight")
    codes = [kill_when(start("killed"), (folder / "best.safetensors").exists)]
    codes.append(kill_when(start("killed", "--resume"), lambda: any(folder.glob(".training.pt.*.tmp"))))
    began, delay = time.time(), random.uniform(0, 1)
    third = start("killed", "--resume")
    codes.append(kill_when(third, lambda: (folder / "recipe.yaml").stat().st_mtime > began, delay))
    assert -9 in codes
    assert start("killed", "--resume").wait() == straight.wait() == 0
    assert_the_same(tmp_path / "runs" / "straight", folder, (codes, delay))


def test_files_that_a_killed_writer_left_are_cleared_away_by_the_next_run(quadrants, tmp_path):
    left = [tmp_path / name for name in (".training.pt.k1ll3d.tmp", ".best.safetensors.k1ll3d.tmp")]
    for path in left:
        path.write_bytes(b"half")
    train(resolve_recipe("ce", "none", {"epochs": 1, "validation_steps": 1}), quadrants, tmp_path)
    assert not any(path.exists() for path in left)
