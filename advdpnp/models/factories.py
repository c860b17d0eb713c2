"""Finds a user's function that builds a model, in a module or in a Python file."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from advdpnp.base.errors import AdvdpnpError, describe, did_you_mean


def is_source(module: str) -> bool:
    """Whether the part of a spec before the colon names a Python file rather than a module."""
    return Path(module).suffix == ".py"


def find_factory(module: str, attribute: str) -> Callable[[], Any]:
    """The function ``attribute`` of a module or of a Python file.

    Raises:
        AdvdpnpError: there is no such module or function, the import fails, or the attribute is not callable.
    """
    try:
        owner: Any = _import_file(Path(module)) if is_source(module) else importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise AdvdpnpError(
                f"there is no Python module '{module}'; run the command in the folder that contains it, or install it"
            ) from error
        raise AdvdpnpError(f"the module '{module}' needs '{error.name}', which is not installed; install it") from error
    except AdvdpnpError:
        raise
    except Exception as error:
        raise AdvdpnpError(f"the module '{module}' fails when imported: {describe(error)}; fix it") from error
    for part in attribute.split("."):
        if not hasattr(owner, part):
            hint = did_you_mean(part, dir(owner), otherwise="check the spelling")
            raise AdvdpnpError(f"the module '{module}' has no '{attribute}'; {hint}")
        owner = getattr(owner, part)
    if not callable(owner):
        kind = type(owner).__name__
        raise AdvdpnpError(f"{module}:{attribute} is of type {kind}, not a function that builds a model")
    factory: Callable[[], Any] = owner
    return factory


def _import_file(path: Path) -> ModuleType:
    """Import a file as a module; its name is its path, so it cannot clash with another module."""
    path = path.resolve()
    if not path.is_file():
        raise AdvdpnpError(f"there is no file {path}; check the path before the colon")
    loader = SourceFileLoader(str(path), str(path))
    module = ModuleType(loader.name)
    module.__file__ = loader.path
    sys.modules[loader.name] = module  # dataclasses look up their module there
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[loader.name]
        raise
    return module


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Put this folder first on the import path inside the block."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
