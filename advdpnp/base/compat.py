"""Import the reference packages and attack libraries, most of which are broken or conflict with another when installed.

No other module of the project imports them directly. Nothing here outlasts an import: the stand-ins for modules that
robustbench and adv-lib import but that do not exist are in ``sys.modules`` only while these are being imported.
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
    """The state of one reference package, as ``advdpnp doctor`` reports it.

    Attributes:
        package: its name.
        version: the installed version, or "" if it is not installed.
        ok: whether it imports and its files are its own.
        finding: the problem, or "".
        remedy: the command that fixes the problem, or "".
    """

    package: str
    version: str
    ok: bool
    finding: str = ""
    remedy: str = ""


def import_torchattacks() -> ModuleType:
    """Import torchattacks.

    Raises:
        AdvdpnpError: it does not import; the message gives the command that fixes it.
    """
    return _import("torchattacks")


def import_pyautoattack() -> ModuleType:
    """Import pyautoattack, which is AutoAttack under another name.

    Raises:
        AdvdpnpError: it does not import; the message gives the command that fixes it.
    """
    return _import("pyautoattack")


def import_robustbench() -> ModuleType:
    """Import robustbench, which needs ``autoattack`` (installed as pyautoattack) and ``pkg_resources`` (removed).

    Raises:
        AdvdpnpError: it does not import, or the old copy that torchattacks ships has overwritten it.
    """
    if "robustbench" not in sys.modules and robustbench_overwritten():
        raise AdvdpnpError(
            "the installed robustbench was overwritten by an old copy that torchattacks ships; "
            f"fix it with: {REINSTALL.format(package='robustbench')}"
        )
    with stand_ins("autoattack", "pkg_resources"):
        return _import("robustbench")


def import_foolbox() -> ModuleType:
    """Import foolbox, an optional extra.

    Raises:
        AdvdpnpError: it does not import; the message gives the command that fixes it.
    """
    return _import("foolbox", "'advdpnp[foolbox]'")


def import_art() -> ModuleType:
    """Import the Adversarial Robustness Toolbox, an optional extra, with its evasion attacks and PyTorch classifier.

    Raises:
        AdvdpnpError: it does not import; the message gives the command that fixes it.
    """
    package = _import("art", "'advdpnp[art]'")
    if not hasattr(package, "attacks") or not hasattr(package.attacks, "evasion"):
        with isolated_rng():
            importlib.import_module("art.attacks.evasion")
            importlib.import_module("art.estimators.classification")
    return package


def import_adv_lib() -> ModuleType:
    """Import the attacks of adv-lib, which is installed without its dependencies.

    Its only dependency beyond torch is visdom, which draws plots that no attack needs. visdom has no wheel, and its
    setup does not run with setuptools >= 81. Where it is missing, an empty module stands in for it during the import.

    Raises:
        AdvdpnpError: it does not import; the message gives the command that fixes it.
    """
    with stand_ins("visdom"):
        package = _import("adv_lib", "--no-deps adv-lib")
        if not hasattr(package, "attacks"):
            with isolated_rng():
                importlib.import_module("adv_lib.attacks")
    return package.attacks  # type: ignore[no-any-return]


def robustbench_overwritten() -> bool:
    """Whether files of robustbench differ from its RECORD, as they do if torchattacks was installed after it.

    Returns False if robustbench is not installed.
    """
    try:
        installed = distribution("robustbench")
    except PackageNotFoundError:
        return False
    return any(_differs(path, digest) for path, digest in _recorded(installed, "robustbench/"))


def package_report() -> list[PackageState]:
    """The state of torchattacks, pyautoattack and robustbench. Imports each of them."""
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
        finding = "was overwritten by the old copy that torchattacks ships"
        return PackageState(package, version, False, finding, remedy)
    try:
        attempt()
    except AdvdpnpError as error:
        return PackageState(package, version, False, f"does not import: {error.__cause__}", remedy)
    return PackageState(package, version, True)


def _import(package: str, install: str = "") -> ModuleType:
    """Import a package. ``install`` is what pip installs if it is missing; its name unless given."""
    if package in sys.modules:
        return sys.modules[package]
    before = set(sys.modules)
    try:
        with isolated_rng():
            return importlib.import_module(package)
    except Exception as error:
        for name in set(sys.modules) - before:  # a partial import would hide the reason next time
            if name.partition(".")[0] == package:
                del sys.modules[name]
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        remedy = f"pip install {install or package}" if missing else REINSTALL.format(package=package)
        raise AdvdpnpError(f"{package} does not import ({error}); fix it with: {remedy}") from error


@contextmanager
def stand_ins(*modules: str) -> Iterator[None]:
    """Provide those of "autoattack", "pkg_resources" and "visdom" that are not installed, for the block alone."""
    made: dict[str, ModuleType] = {}
    for module in modules:
        if _find(module) is not None:
            continue
        if module == "autoattack":
            made |= {module: import_pyautoattack(), "autoattack.state": importlib.import_module("pyautoattack.state")}
            continue
        made[module] = ModuleType(module)
        if module == "pkg_resources":
            made[module].resource_filename = _resource_filename  # type: ignore[attr-defined]
    added = [name for name in made if name not in sys.modules]
    sys.modules.update({name: made[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


def _resource_filename(module: str, path: str) -> str:
    """The path of a file next to a module, as ``pkg_resources.resource_filename`` returns it."""
    origin = sys.modules[module].__file__
    assert origin is not None
    return str(Path(origin).parent / path)


def _find(name: str) -> object | None:
    try:
        return sys.modules.get(name) or importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _recorded(installed: Distribution, prefix: str) -> Iterator[tuple[Path, str]]:
    """Files under ``prefix`` in the distribution's RECORD, each with its SHA-256 (URL-safe base64, no padding)."""
    for row in csv.reader((installed.read_text("RECORD") or "").splitlines()):
        if len(row) >= 2 and row[0].startswith(prefix) and row[1].startswith("sha256="):
            yield Path(str(installed.locate_file(row[0]))), row[1].removeprefix("sha256=")


def _differs(path: Path, digest: str) -> bool:
    if not path.is_file():
        return True
    actual = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
    return actual != digest
