"""What is recorded of a run besides its options: versions of the software, and the command line."""

import platform
import shlex
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from advdpnp.base.untrusted.text import printable

PACKAGES = ("advdpnp", "torch", "torchvision", "numpy", "torchattacks", "pyautoattack", "robustbench")
_LONGEST = 10_000


def software_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on, by name, without packages not installed."""
    return dict(_versions())


@cache  # reading them takes longer than an attack on a small net
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def command_line() -> str:
    """The command that is running, if it is ours; of absolute paths only the last part, for results are shared."""
    program = Path(sys.argv[0])
    if program.name not in ("advdpnp", "advdpnp.exe") and program.parts[-2:] != ("advdpnp", "__main__.py"):
        return ""
    return printable(shlex.join(["advdpnp", *map(without_folder, sys.argv[1:])]), _LONGEST)


def without_folder(argument: str) -> str:
    """``--out=/home/me/x`` becomes ``--out=x``, ``npz:/home/x.npz`` ``npz:x.npz``, ``/home/n.py:f`` ``n.py:f``."""
    option, equals, value = argument.partition("=")
    if equals and option.startswith("--"):
        return f"{option}={without_folder(value)}"
    parts = argument.rpartition(":")
    return "".join(Path(part).name if Path(part).expanduser().is_absolute() else part for part in parts)
