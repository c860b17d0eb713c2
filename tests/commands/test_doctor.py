"""The doctor: finds what is wrong, never falls ill itself, and always prescribes a command."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from advdpnp.commands import doctor
from advdpnp.commands.doctor import Check, as_json, broken_links, diagnose


def found(name: str) -> Check:
    checks = [check for check in diagnose() if check.name == name]
    assert len(checks) == 1
    return checks[0]


@pytest.fixture(autouse=True)
def _stand_in_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference packages take seconds to import and have tests of their own."""
    report = SimpleNamespace(package="torchattacks", version="3.5.1", ok=True, finding="", remedy="")
    stand_in(monkeypatch, package_report=lambda: [report])


def stand_in(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    module = ModuleType("advdpnp.base.compat")
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, "advdpnp.base.compat", module)
    import advdpnp

    monkeypatch.setattr(advdpnp, "compat", module, raising=False)


def without_a_new_interpreter(monkeypatch: pytest.MonkeyPatch, report: list[Check]) -> None:
    """Shell commands run; the second look after them, which takes seconds, is ``report``."""
    real_run = doctor.subprocess.run

    def run(command: Any, **options: Any) -> Any:
        if options.get("shell"):
            return real_run(command, **options)
        return SimpleNamespace(stdout=f"noise\n{json.dumps([vars(check) for check in report])}\n", returncode=0)

    monkeypatch.setattr(doctor.subprocess, "run", run)


def test_a_missing_optional_package_is_no_finding_but_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "OPTIONAL", {"art": ("no-such-distribution", '"advdpnp[art]"')})
    monkeypatch.setattr(doctor, "PROBES", {"optional packages": doctor.PROBES["optional packages"]})
    doctor.doctor()
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("ok art not installed (optional); add it with:")
    assert said.endswith('pip install "advdpnp[art]"')


def test_every_line_is_complete() -> None:
    checks = diagnose()
    assert {"python", "advdpnp", "packages", "torch", "processor", "torchattacks", "data", "folder"} <= {
        c.name for c in checks
    }
    for check in checks:
        assert check.value
        assert check.ok == (not check.finding) == (not check.remedy)
        assert "\n" not in check.finding + check.value + check.remedy
    assert Check(**json.loads(as_json())[0]) == checks[0]


@pytest.mark.parametrize("name", doctor.PROBES)
@pytest.mark.parametrize("error", [OSError("no such library"), RuntimeError("two\nlines"), KeyError("x")], ids=repr)
def test_no_probe_can_stop_the_others(name: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def probe() -> Iterator[Check]:
        raise error
        yield

    silent = {other: lambda: iter(()) for other in doctor.PROBES}
    monkeypatch.setattr(doctor, "PROBES", silent | {name: probe, "last": lambda: iter([Check("last", "reached")])})
    checks = diagnose()
    assert [check.name for check in checks] == [name, "last"]
    assert type(error).__name__ in checks[0].finding
    assert checks[0].remedy
    assert not checks[0].ok


def test_a_torchvision_made_for_another_torch_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "torchvision":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    import torch

    for cuda in (None, "13.0"):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        check = found("torchvision")
        assert not check.ok
        assert "nms does not exist" in check.finding
        assert "torch and torchvision together" in check.finding
        assert check.remedy.endswith("torch torchvision")


def test_a_missing_torchvision_is_told_from_a_broken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "torchvision":
                raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")

    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    check = found("torchvision")
    assert check.value == "missing"
    assert check.remedy.endswith("pip install torchvision")


def test_an_old_torch_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "__version__", "2.3.1+cpu")
    check = found("torch")
    assert "too old" in check.finding
    assert "pip install --upgrade torch torchvision" in check.remedy


def test_findings_of_the_reference_packages_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    report = SimpleNamespace(package="robustbench", version="1.1", ok=False, finding="overwritten", remedy="mend it")
    stand_in(monkeypatch, package_report=lambda: [report])
    check = found("robustbench")
    assert (check.ok, check.finding, check.remedy, check.automatic) == (False, "overwritten", "mend it", True)


class TestLinks:
    def checkout(self, root: Path) -> Path:
        package = root / "advdpnp"
        package.mkdir()
        for name in doctor.LINKED:
            (root / name).mkdir()
            (root / name / "__init__.py").touch()
            (package / name).symlink_to(f"../{name}")
        return package

    def test_links_and_folders_are_fine(self, tmp_path: Path) -> None:
        package = self.checkout(tmp_path)
        assert broken_links(package) == []
        (package / "eval").unlink()
        (package / "eval").mkdir()
        (package / "eval" / "__init__.py").touch()
        assert broken_links(package) == []

    @pytest.mark.skipif(sys.platform == "win32", reason="the remedy is a POSIX command")
    def test_links_that_came_as_text_are_found_and_mended(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = self.checkout(tmp_path)
        for name in ("attacks", "corruption"):
            (package / name).unlink()
            (package / name).write_text(f"../{name}")  # what git and zip leave where there are no links
        assert broken_links(package) == ["attacks", "corruption"]

        monkeypatch.setattr(doctor, "__file__", str(package / "commands" / "doctor.py"))
        monkeypatch.setattr(doctor, "PROBES", {"packages": doctor._links})
        check = found("packages")
        assert "came out as text" in check.finding
        assert check.automatic
        without_a_new_interpreter(monkeypatch, [])
        doctor.fix(lambda line: None)
        assert broken_links(package) == []


class TestDevices:
    def test_a_device_that_torch_cannot_use_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setattr(doctor, "_driver_devices", lambda: ["GPU 0: NVIDIA A100"])
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        assert "NVIDIA A100" in found("accelerator").finding
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert found("accelerator").ok
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        monkeypatch.setattr(doctor, "_driver_devices", lambda: [])
        assert found("accelerator").ok

    def test_cuda_devices_are_listed_with_bf16(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        cards = [
            SimpleNamespace(name="old", total_memory=8 << 30, major=7),
            SimpleNamespace(name="new", total_memory=80 << 30, major=9),
        ]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
        monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
        assert found("cuda:0").value == "old, 8 GiB, no bf16"
        assert found("cuda:1").value == "new, 80 GiB, bf16"


class TestData:
    def test_what_is_there_is_listed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ADVDPNP_DATA", str(tmp_path))
        assert found("data").value == f"digits (built in); data root {tmp_path}"
        (tmp_path / "cifar-10-batches-py").mkdir()
        (tmp_path / "MNIST" / "raw").mkdir(parents=True)
        assert "cifar10, mnist" in found("data").value

    def test_a_root_that_is_no_folder_is_reported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ADVDPNP_DATA", str(tmp_path / "gone"))
        assert "ADVDPNP_DATA" in found("data").finding


class TestFolder:
    def test_an_unwritable_folder_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(**_: Any) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
        assert "Permission denied" in found("folder").finding

    def test_a_full_disk_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
        assert "free some space" in found("folder").finding


def test_mending_runs_only_what_touches_this_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def probe() -> Iterator[Check]:
        yield Check("ours", "x", False, "wrong", f'touch "{tmp_path / "ours"}"', automatic=True)
        yield Check("ours too", "x", False, "wrong", f'echo again >> "{tmp_path / "count"}"', automatic=True)
        yield Check("ours as well", "x", False, "wrong", f'echo again >> "{tmp_path / "count"}"', automatic=True)
        yield Check("theirs", "x", False, "wrong", f'touch "{tmp_path / "theirs"}"')
        yield Check("fine", "x", True, "", f'touch "{tmp_path / "fine"}"', automatic=True)

    fresh = [Check("fresh", "seen by a new interpreter")]
    monkeypatch.setattr(doctor, "PROBES", {"probe": probe})
    without_a_new_interpreter(monkeypatch, fresh)
    announced: list[str] = []
    assert doctor.fix(announced.append) == fresh
    assert announced == [f'$ touch "{tmp_path / "ours"}"', f'$ echo again >> "{tmp_path / "count"}"']
    assert (tmp_path / "ours").exists()
    assert (tmp_path / "count").read_text() == "again\n"
    assert not (tmp_path / "theirs").exists()
    assert not (tmp_path / "fine").exists()
