"""The attack that the guide shows is found through its entry point and gets all that the built-in ones get."""

import os
import subprocess
import sys
from pathlib import Path

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "add-attack.md"

SCRIPT = """
import sys
from dataclasses import replace
import torch
from advdpnp.attacks import ATTACKS, AttackResult, ThreatModel, resolve_attacks, search
from advdpnp.base.errors import AdvdpnpError
from advdpnp.cli import run

torch.manual_seed(1)
threat = ThreatModel.parse("linf", "0.2")
attack = ATTACKS.make("many-tries-30", threat=threat, classes=2)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
x = torch.rand(40, 1, 4, 4)
y = model(x).argmax(1)

def find(**options):
    settings = {"seed": 0, "static_batch_size": 8, **options}
    found = AttackResult.concatenate(list(search(model, attack, x, y, torch.arange(40), **settings)))
    return found[found.sample.argsort()]

found = find()
assert 0 < int(found.success.sum()) < 40, found.success
assert bool((found.forwards[~found.success] == 1 + 30 + 1).all()), found.forwards
with torch.no_grad():
    assert torch.equal(model(found.x_adv).argmax(1) != y, found.success)
assert bool(threat.contains(x, found.x_adv).all())
assert torch.equal(find(max_active=3).x_adv, found.x_adv)
low = find(precision="bf16")
with torch.no_grad():
    assert torch.equal(model(low.x_adv).argmax(1) != y, low.success)
assert int((low.success != found.success).sum()) <= 4, low.success

other = ThreatModel.parse("l2", "0.5")  # the attack declares linf alone
for wrong in ("abc", "0"):
    try:
        ATTACKS.make(f"many-tries-{wrong}", threat=threat, classes=2)
    except AdvdpnpError as error:
        assert str(error).startswith(f"'{wrong}' in 'many-tries-{wrong}' is not a number of steps from 1 to"), error
    else:
        raise AssertionError("a number of steps that is none was accepted")

for refused in (
    lambda: next(search(model, replace(attack, threat=other), x, y, torch.arange(40), seed=0, static_batch_size=8)),
    lambda: resolve_attacks("many-tries-30", other, 2),
):
    try:
        refused()
    except AdvdpnpError as error:
        assert str(error) == "the attack 'many-tries-30' does not support l2, only linf", error
    else:
        raise AssertionError("an undeclared norm was accepted")
sys.exit(run(["list", "attacks"]))
"""


def block(name: str) -> str:
    return next(text for text in GUIDE.read_text(encoding="utf-8").split("```") if f"# {name}\n" in text[:40])


def test_the_attack_of_the_guide_runs(tmp_path):
    (tmp_path / "many_tries.py").write_text(block("many_tries.py").removeprefix("python\n"), encoding="utf-8")
    assert 'many-tries = "many_tries"' in block("pyproject.toml")
    information = tmp_path / "many_tries-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: many-tries\nVersion: 1.0\n", encoding="utf-8")
    (information / "entry_points.txt").write_text("[advdpnp.attacks]\nmany-tries = many_tries\n", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "many-tries-{tries}" in done.stdout


def test_a_file_is_a_plugin_without_packaging(tmp_path):
    (tmp_path / "my tries.py").write_text(block("many_tries.py").removeprefix("python\n"), encoding="utf-8")
    words = [sys.executable, "-m", "advdpnp", "list", "attacks", "--plugin", "my tries.py"]
    path = os.pathsep.join([str(GUIDE.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "env": os.environ | {"PYTHONPATH": path}}
    done = subprocess.run(words, **options)
    assert done.returncode == 0, done.stderr
    assert "many-tries-{tries}" in done.stdout
    (tmp_path / "my tries.py").write_text("1 / 0")
    done = subprocess.run(words, **options)
    assert done.returncode == 2
    assert (
        done.stderr.strip() == "advdpnp: my tries.py fails when imported: ZeroDivisionError: division by zero; fix it"
    )
