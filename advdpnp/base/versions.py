"""The versions of the software that a result depends on."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("advdpnp", "torch", "torchvision", "numpy", "torchattacks", "pyautoattack", "robustbench")


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
