"""``advdpnp doctor``: checks the installation; every finding comes with the command that fixes it.

Nothing here may raise: a check looks for what makes other code raise. Probes import what they check only when they run,
so a broken package fails its own line of the report and no other.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from advdpnp.commands.support import console

EPILOG = "Example: `advdpnp doctor`"

Mend = Annotated[bool, typer.Option("--mend", help="Run the commands that fix what is wrong.")]

OLDEST_PYTHON = (3, 11)
OLDEST_TORCH = (2, 6)
LITTLE_SPACE = 2 * 1024**3  # bytes; verdicts and checkpoints of one evaluation stay far below
OPTIONAL = {
    "foolbox": ("foolbox", '"advdpnp[foolbox]"'),
    "adv-lib": ("adv-lib", "--no-deps adv-lib"),
    "art": ("adversarial-robustness-toolbox", '"advdpnp[art]"'),
    "transformers": ("transformers", '"advdpnp[hf]"'),
}  # the name of its distribution, and what pip installs for it
LINKED = ("attacks", "eval", "corruption")
STANDARD_ERROR = 2  # the file descriptor: sys.stderr need not have one
TOGETHER = "so install torch and torchvision together"


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what was looked at.
        value: what was found: a version, a device, a folder.
        ok: whether it is as it should be.
        finding: what is wrong, one sentence; empty if nothing is.
        remedy: the command that fixes it; empty if nothing is wrong.
        automatic: ``--mend`` may run the remedy: it touches nothing but this installation.
    """

    name: str
    value: str
    ok: bool = True
    finding: str = ""
    remedy: str = ""
    automatic: bool = False


def doctor(mend: Mend = False) -> None:
    """Check versions, devices and the reference packages, and print the command that fixes each finding."""
    checks = fix(console.err.print) if mend else diagnose()
    for check in checks:
        mark = Text("ok", "green") if check.ok else Text("!!", "red")
        console.out.print(mark, f" {check.name:<24} {check.value}")
        if not check.ok:
            console.out.print(f"      {check.finding}\n      fix with: {check.remedy}")
    if not all(check.ok for check in checks):
        raise typer.Exit(2)


def diagnose() -> list[Check]:
    """Look at everything. Never raises, and writes nothing that stays."""
    checks: list[Check] = []
    for name, probe in PROBES.items():
        try:
            checks += probe()
        except Exception as error:
            finding = f"looking at it failed with {type(error).__name__}: {' '.join(str(error).split())}"
            checks.append(Check(name, "unknown", False, finding, _pip("--upgrade --force-reinstall advdpnp")))
    return checks


def fix(announce: Callable[[str], None]) -> list[Check]:
    """Run the remedies that only touch this installation, then look again, in a new interpreter.

    What the commands print goes to standard error.

    Args:
        announce: is called with each command before it runs.
    """
    remedies = dict.fromkeys(check.remedy for check in diagnose() if not check.ok and check.automatic)
    for remedy in remedies:
        announce(f"$ {remedy}")
        subprocess.run(remedy, shell=True, stdout=STANDARD_ERROR, check=False)
    if not remedies:
        return diagnose()
    # Modules that were replaced on disk stay as they were in this process.
    command = [sys.executable, "-c", "from advdpnp.commands.doctor import as_json; print(as_json())"]
    report = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = report.stdout.splitlines()
    return [Check(**fields) for fields in json.loads(lines[-1])] if lines and not report.returncode else diagnose()


def as_json() -> str:
    """The report on one line, for other programs."""
    return json.dumps([asdict(check) for check in diagnose()])


def _pip(arguments: str) -> str:
    """A pip command for the interpreter that runs this."""
    return f'"{sys.executable}" -m pip install {arguments}'


def _release(text: str) -> tuple[int, int]:
    """Major and minor number: "2.6.0+cpu" -> (2, 6)."""
    major, minor = text.split("+")[0].split(".")[:2]
    return int(major), int(minor)


def _python() -> Iterator[Check]:
    found = platform.python_version()
    ok = sys.version_info[:2] >= OLDEST_PYTHON
    needed = ".".join(map(str, OLDEST_PYTHON))
    finding = "" if ok else f"Python {found} is too old; {needed} or newer is needed"
    yield Check("python", f"{found} ({platform.machine()})", ok, finding, "" if ok else f"python{needed} -m venv .venv")


def _advdpnp() -> Iterator[Check]:
    yield Check("advdpnp", f"{version('advdpnp')} in {Path(__file__).parents[1]}")


def _links() -> Iterator[Check]:
    """Three packages are links in a checkout; without symbolic links (Windows, zip) they become small text files."""
    package = Path(__file__).parents[1]
    broken = broken_links(package)
    if not broken:
        yield Check("packages", ", ".join(LINKED))
        return
    names = " and ".join(f"advdpnp/{name}" for name in broken)
    finding = (
        f"{names} should lead to the folder{'s' * (len(broken) > 1)} of that name but came out as text or not at all"
    )
    paths = " ".join(f"advdpnp/{name}" for name in broken)
    if os.name == "nt":
        remedy = f'cd /d "{package.parent}" && git config core.symlinks true && git checkout -- {paths}'
        finding += " (Windows makes links in developer mode only)"
    else:
        links = " && ".join(f"ln -sfn ../{name} {name}" for name in broken)
        remedy = f'cd "{package}" && {links}'
    yield Check("packages", "broken", False, finding, remedy, automatic=True)


def broken_links(package: Path) -> list[str]:
    """Which of the linked packages are no folders with Python code under ``package``."""
    return [name for name in LINKED if not (package / name / "__init__.py").is_file()]


def _torch() -> Iterator[Check]:
    try:
        import torch
    except Exception as error:
        finding = f"torch does not import: {' '.join(str(error).split())}"
        yield Check("torch", "broken", False, finding, _pip("--upgrade torch torchvision"), automatic=True)
        return
    found, ok = torch.__version__, _release(torch.__version__) >= OLDEST_TORCH
    needed = ".".join(map(str, OLDEST_TORCH))
    finding = "" if ok else f"torch {found} is too old; {needed} or newer is needed"
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    yield Check("torch", f"{found} ({built})", ok, finding, "" if ok else _pip("--upgrade torch torchvision"))


def _torchvision() -> Iterator[Check]:
    try:
        import torchvision
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        yield Check(
            "torchvision", "missing", False, "torchvision is not installed", _pip("torchvision"), automatic=True
        )
    except Exception as error:
        yield _torchvision_mismatch(error)
    else:
        yield Check("torchvision", torchvision.__version__)


def _torchvision_mismatch(error: Exception) -> Check:
    """The wheels of torchvision are made for one build of torch: beside another, its import fails."""
    import torch

    finding = (
        f"torchvision {version('torchvision')} was made for another torch than {torch.__version__} "
        f"({' '.join(str(error).split())}), {TOGETHER}"
    )
    remedy = _pip("--upgrade --force-reinstall torch torchvision")
    return Check("torchvision", "broken", False, finding, remedy)


def _processor() -> Iterator[Check]:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Where the question itself is unknown to this torch, the honest answer is no.
    mkldnn = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    bf16 = "bf16" if mkldnn is not None and mkldnn() else "no bf16"
    capability = torch.backends.cpu.get_cpu_capability()
    yield Check("processor", f"{usable} cores, {torch.get_num_threads()} threads, {capability}, {bf16}")


def _accelerator() -> Iterator[Check]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if device.major >= 8 else "no bf16"
            yield Check(f"cuda:{index}", f"{device.name}, {device.total_memory / 1024**3:.0f} GiB, {bf16}")
        return
    if torch.backends.mps.is_available():
        yield Check("mps", "Apple GPU")
        return
    listed = _driver_devices()
    if not listed or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        yield Check("accelerator", "none; everything runs on the processor")
        return
    finding = f"the driver lists {listed[0]}, but torch {torch.__version__} cannot use it, {TOGETHER} for its CUDA"
    yield Check("accelerator", "not usable", False, finding, _pip("--upgrade --force-reinstall torch torchvision"))


def _driver_devices() -> list[str]:
    """NVIDIA devices as the driver names them; empty without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listing = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.split(" (UUID")[0] for line in listing.stdout.splitlines() if line.startswith("GPU")]


def _reference_packages() -> Iterator[Check]:
    from advdpnp.base.compat import package_report

    for report in package_report():
        yield Check(report.package, report.version, report.ok, report.finding, report.remedy, automatic=not report.ok)


def _optional_packages() -> Iterator[Check]:
    """What only some attacks and models need; without importing it, which takes seconds."""
    for package, (distribution, install) in OPTIONAL.items():
        try:
            yield Check(package, version(distribution))
        except PackageNotFoundError:
            yield Check(package, f"not installed (optional); add it with: {_pip(install)}")


def _data() -> Iterator[Check]:
    from advdpnp.datasets.base import DATA_ROOT_VARIABLE, default_data_root
    from advdpnp.datasets.torchvision_sets import SOURCES

    root = default_data_root().absolute()
    present = [source.spec for source in SOURCES if source.present(root)]
    if os.environ.get(DATA_ROOT_VARIABLE) and not root.is_dir():
        finding = f"{DATA_ROOT_VARIABLE} names {root}, which is no folder"
        yield Check("data", "missing", False, finding, f'mkdir -p "{root}"' if os.name != "nt" else f'mkdir "{root}"')
        return
    yield Check("data", f"digits (built in){''.join(f', {name}' for name in present)}; data root {root}")


def _folder() -> Iterator[Check]:
    here = Path.cwd()
    try:
        with tempfile.TemporaryFile(dir=here):
            pass
    except OSError as error:
        finding = f"nothing can be written to {here} ({error.strerror}); work in a folder of your own"
        yield Check("folder", str(here), False, finding, "cd" if os.name == "nt" else "cd ~")
        return
    free = shutil.disk_usage(here).free
    ok = free >= LITTLE_SPACE
    finding = "" if ok else f"only {free / 1024**3:.1f} GiB are free, results of long runs may not fit; free some space"
    remedy = "" if ok else ("dir" if os.name == "nt" else "du -xh . | sort -h | tail")
    yield Check("folder", f"{here}, {free / 1024**3:,.0f} GiB free", ok, finding, remedy)
    # Without an __init__.py a folder comes before what an editable install adds, but after installed packages.
    found = PathFinder.find_spec("advdpnp", [str(here), *sys.path])
    if found is not None and found.origin is None:
        finding = "a script here imports the folder advdpnp instead of the package; rename the folder"
        yield Check("imports", str(here / "advdpnp"), False, finding, "mv advdpnp advdpnp-clone")


PROBES: dict[str, Callable[[], Iterator[Check]]] = {
    "python": _python,
    "advdpnp": _advdpnp,
    "packages": _links,
    "torch": _torch,
    "torchvision": _torchvision,
    "processor": _processor,
    "accelerator": _accelerator,
    "reference packages": _reference_packages,
    "optional packages": _optional_packages,
    "data": _data,
    "folder": _folder,
}
