"""The compatibility module: imports that work, and a process left as it was."""

import json
import subprocess
import sys

import pytest

from advdpnp.base import compat
from advdpnp.base.compat import import_robustbench, package_report, robustbench_overwritten
from advdpnp.base.errors import AdvdpnpError

IN_A_FRESH_PROCESS = """
import json, random, sys
import numpy, torch
before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()
from advdpnp.base import compat
assert not any(name in sys.modules for name in ("torchattacks", "pyautoattack", "robustbench"))
report = compat.package_report()
module = compat.import_robustbench()
after = random.getstate(), numpy.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()
print(json.dumps({
    "ok": {state.package: state.ok for state in report},
    "load_model": callable(module.load_model),
    "left": [name for name in ("autoattack", "autoattack.state", "pkg_resources") if name in sys.modules],
    "rng": before == after,
}))
"""


def test_all_three_import_in_a_fresh_process_and_nothing_else_stays():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_A_FRESH_PROCESS], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ok"] == {"torchattacks": True, "pyautoattack": True, "robustbench": True}
    assert told["load_model"]
    assert told["left"] == []
    assert told["rng"]


class Installed:
    """A distribution whose RECORD and files a test writes."""

    version = "1.1.1"

    def __init__(self, folder, digest):
        self.folder, self.digest = folder, digest

    def read_text(self, name):
        assert name == "RECORD"
        rows = [f"robustbench/__init__.py,sha256={self.digest},3", "robustbench-1.1.1.dist-info/RECORD,,"]
        return "\n".join([*rows, "other.py,sha256=x,1"])

    def locate_file(self, name):
        return self.folder / name


ABC = "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"  # urlsafe base64 of sha256(b"abc")


@pytest.mark.parametrize(("content", "overwritten"), [(b"abc", False), (b"abd", True), (None, True)])
def test_an_overwritten_robustbench_is_known_by_its_record(tmp_path, monkeypatch, content, overwritten):
    (tmp_path / "robustbench").mkdir()
    if content is not None:
        (tmp_path / "robustbench" / "__init__.py").write_bytes(content)
    monkeypatch.setattr(compat, "distribution", lambda name: Installed(tmp_path, ABC))
    assert robustbench_overwritten() is overwritten


def test_an_overwritten_robustbench_is_refused_with_the_command_that_mends_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "robustbench", raising=False)
    monkeypatch.setattr(compat, "robustbench_overwritten", lambda: True)
    command = "pip install --force-reinstall --no-deps robustbench"
    with pytest.raises(AdvdpnpError, match=command):
        import_robustbench()
    state = {each.package: each for each in package_report()}["robustbench"]
    assert not state.ok
    assert state.remedy == command
    assert "overwritten" in state.finding


def test_a_missing_package_is_reported_with_its_command(monkeypatch):
    def missing(name):
        raise compat.PackageNotFoundError(name)

    monkeypatch.setattr(compat, "distribution", missing)
    assert [(s.package, s.ok, s.remedy) for s in package_report()] == [
        (name, False, f"pip install {name}") for name in ("torchattacks", "pyautoattack", "robustbench")
    ]
    assert robustbench_overwritten() is False


def test_a_package_that_fails_to_import_is_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "torchattacks").mkdir()
    (tmp_path / "torchattacks" / "__init__.py").write_text("raise RuntimeError('half installed')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchattacks"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(AdvdpnpError, match=r"half installed.*pip install --force-reinstall --no-deps torchattacks"):
        compat.import_torchattacks()
    assert "torchattacks" not in sys.modules
