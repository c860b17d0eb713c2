"""What software made a result."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("advdpnp", "torch", "torchvision", "numpy", "torchattacks", "pyautoattack", "robustbench")


def software_versions() -> dict[str, str]:
    """Versions of Python and of the packages a result depends on, by name; what is not installed is left out."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
