"""The three reference packages, made importable although each is broken or clashes as it installs.

Nothing else in the project imports them. Nothing here lasts beyond an import: stand-ins for modules that robustbench
names but that do not exist live in ``sys.modules`` only while it is imported.
"""

import base64
import csv
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import isolated_rng

REINSTALL = "pip install --force-reinstall --no-deps {package}"


@dataclass(frozen=True)
class PackageState:
    """How one reference package is: for ``advdpnp doctor``.

    Attributes:
        version: as installed, or "" if it is not.
        ok: it imports and is what its name says.
        finding: what is wrong, or "".
        remedy: the command that mends it, or "".
    """

    package: str
    version: str
    ok: bool
    finding: str = ""
    remedy: str = ""


def import_torchattacks() -> ModuleType:
    """torchattacks.

    Raises:
        AdvdpnpError: it does not import; the message has the command that mends it.
    """
    return _import("torchattacks")


def import_pyautoattack() -> ModuleType:
    """pyautoattack, which is AutoAttack under another name.

    Raises:
        AdvdpnpError: it does not import; the message has the command that mends it.
    """
    return _import("pyautoattack")


def import_robustbench() -> ModuleType:
    """robustbench, past its imports of ``autoattack`` (it installs as pyautoattack) and ``pkg_resources`` (gone).

    Raises:
        AdvdpnpError: it does not import, or torchattacks' stray copy lies in its place.
    """
    if "robustbench" not in sys.modules and robustbench_overwritten():
        raise AdvdpnpError(
            "the installed robustbench was overwritten by an old copy that torchattacks carries; "
            f"mend it with: {REINSTALL.format(package='robustbench')}"
        )
    with stand_ins():
        return _import("robustbench")


def robustbench_overwritten() -> bool:
    """Whether files of robustbench differ from what its own RECORD says, as after installing torchattacks later.

    False if robustbench is not installed.
    """
    try:
        installed = distribution("robustbench")
    except PackageNotFoundError:
        return False
    return any(_differs(path, digest) for path, digest in _recorded(installed, "robustbench/"))


def package_report() -> list[PackageState]:
    """The state of torchattacks, pyautoattack and robustbench, each imported once to see."""
    attempts = {
        "torchattacks": import_torchattacks,
        "pyautoattack": import_pyautoattack,
        "robustbench": import_robustbench,
    }
    return [_state(package, attempt) for package, attempt in attempts.items()]


def _state(package: str, attempt: Callable[[], ModuleType]) -> PackageState:
    try:
        version = distribution(package).version
    except PackageNotFoundError:
        return PackageState(package, "", False, "is not installed", f"pip install {package}")
    remedy = REINSTALL.format(package=package)
    if package == "robustbench" and robustbench_overwritten():
        finding = "was overwritten by the old copy that torchattacks carries"
        return PackageState(package, version, False, finding, remedy)
    try:
        attempt()
    except AdvdpnpError as error:
        return PackageState(package, version, False, f"does not import: {error.__cause__}", remedy)
    return PackageState(package, version, True)


def _import(package: str) -> ModuleType:
    if package in sys.modules:
        return sys.modules[package]
    before = set(sys.modules)
    try:
        with isolated_rng():
            return importlib.import_module(package)
    except Exception as error:
        for name in set(sys.modules) - before:  # half an import would hide the reason the next time
            if name.partition(".")[0] == package:
                del sys.modules[name]
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        remedy = f"pip install {package}" if missing else REINSTALL.format(package=package)
        raise AdvdpnpError(f"{package} does not import ({error}); mend it with: {remedy}") from error


@contextmanager
def stand_ins() -> Iterator[None]:
    """Modules that packages import by names nobody installs; existing ones are left as they are."""
    added: list[str] = []

    def add(name: str, module: ModuleType) -> None:
        if name not in sys.modules:
            sys.modules[name] = module
            added.append(name)

    if _find("autoattack") is None:
        package = import_pyautoattack()
        add("autoattack", package)
        add("autoattack.state", importlib.import_module("pyautoattack.state"))
    if _find("pkg_resources") is None:
        resources = ModuleType("pkg_resources")
        resources.resource_filename = _resource_filename  # type: ignore[attr-defined]
        add("pkg_resources", resources)
    try:
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


def _resource_filename(module: str, path: str) -> str:
    """What ``pkg_resources.resource_filename`` is used for: a file beside a module."""
    origin = sys.modules[module].__file__
    assert origin is not None
    return str(Path(origin).parent / path)


def _find(name: str) -> object | None:
    try:
        return sys.modules.get(name) or importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _recorded(installed: Distribution, prefix: str) -> Iterator[tuple[Path, str]]:
    """Files under ``prefix`` in the distribution's RECORD, with the sha256 it gives (urlsafe base64, no padding)."""
    for row in csv.reader((installed.read_text("RECORD") or "").splitlines()):
        if len(row) >= 2 and row[0].startswith(prefix) and row[1].startswith("sha256="):
            yield Path(str(installed.locate_file(row[0]))), row[1].removeprefix("sha256=")


def _differs(path: Path, digest: str) -> bool:
    if not path.is_file():
        return True
    actual = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
    return actual != digest
