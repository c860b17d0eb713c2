"""A user's function that builds a model, in a module or in a Python file."""

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from advdpnp.base.errors import AdvdpnpError, describe, did_you_mean
from advdpnp.models.classifier import as_classifier
from advdpnp.models.network import Normalisation, Normalise
from advdpnp.models.sources.request import Found, Request
from advdpnp.models.weights import load_into, read_state_dict

_logger = logging.getLogger("advdpnp")


def is_factory(spec: str) -> bool:
    """Whether a spec reads ``package.module:factory`` or ``folder/file.py:factory``."""
    module, _, attribute = spec.rpartition(":")
    named = attribute if is_source(module) else f"{module}.{attribute}"
    return all(part.isidentifier() for part in named.split("."))


def load_factory(request: Request) -> Found:
    """The model that a factory returns when it is called without arguments; ``weights`` replace its own.

    A normalisation becomes its first layer.
    """
    spec, weights = request.spec, request.weights
    module, _, attribute = spec.rpartition(":")
    # Like ``python -m module`` and ``python file.py``; console scripts have neither folder on their import path.
    with importable(Path(module).parent if is_source(module) else Path()):
        factory = find_factory(module, attribute)
        try:
            model = factory()
        except (Exception, SystemExit) as error:
            raise AdvdpnpError(f"{spec} fails when called without arguments: {describe(error)}; fix it") from error
    model = _unwrapped(model)
    if not isinstance(model, nn.Module):
        if not callable(model):
            raise AdvdpnpError(
                f"{spec} returns an object of type {type(model).__name__}, not a torch.nn.Module; make it return the "
                "model"
            )
        if weights is not None or not any(True for _ in as_classifier(model).parameters()):
            # Verdicts are stored under the hash of the weights, so these must be seen.
            raise AdvdpnpError(
                f"{spec} returns a function whose weights cannot be seen; make it return a torch.nn.Module"
            )
    if weights is None and isinstance(model, nn.Module) and _is_random(model, factory):
        _logger.warning(
            f"{spec} returns other weights at every call, so they are random; give the trained ones with --weights, or "
            "load them in the function"
        )
    if weights is not None:
        load_into(model, read_state_dict(weights, request.weights_key), weights)
    if request.normalisation is not None:
        model = normalised(model, request.normalisation)
    return Found(model, attribute if weights is None else weights.stem, attribute)


def normalised(model: Callable[..., Any], normalisation: Normalisation) -> nn.Module:
    """The model with a normalisation before it.

    Raises:
        AdvdpnpError: it has one of this package inside, which would normalise twice.
    """
    net = as_classifier(model)
    if any(isinstance(module, Normalise) for module in net.modules()):
        raise AdvdpnpError("the model normalises its images itself; leave out mean and std")
    place = next((tensor.device for tensor in (*net.parameters(), *net.buffers())), torch.device("cpu"))
    return nn.Sequential(Normalise(*normalisation).to(place, net.dtype), net)


def _unwrapped(model: Any) -> Any:
    """The net inside DataParallel, DistributedDataParallel and torch.compile, which names its weights without them."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _is_random(model: nn.Module, factory: Callable[[], Any]) -> bool:
    """Whether some weights differ from call to call: those of a net that is new and into which nothing was loaded."""
    try:
        again = _unwrapped(factory())
        mine, others = model.state_dict(), again.state_dict() if isinstance(again, nn.Module) else {}
        return any(
            not torch.equal(mine[name], others[name])
            for name in mine.keys() & others.keys()
            if isinstance(mine[name], Tensor) and not is_lazy(mine[name]) and not mine[name].is_meta
        )
    except (Exception, SystemExit):  # a model's own code may fail in any way
        return False


def is_source(module: str) -> bool:
    """Whether the part of a spec before the colon names a Python file rather than a module."""
    return Path(module).suffix == ".py"


def find_factory(module: str, attribute: str) -> Callable[[], Any]:
    """The function ``attribute`` of a module or of a Python file.

    Raises:
        AdvdpnpError: there is no such module or function, the import fails, or the attribute is not callable.
    """
    try:
        owner: Any = _executed(Path(module)) if is_source(module) else importlib.import_module(module)
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


def import_file(path: Path) -> ModuleType:
    """Import a file as a module, with its folder on the import path meanwhile.

    Raises:
        AdvdpnpError: there is no such file, or its code fails.
    """
    with importable(path.parent):
        try:
            return _executed(path)
        except AdvdpnpError:
            raise
        except (Exception, SystemExit) as error:
            raise AdvdpnpError(f"{path} fails when imported: {describe(error)}; fix it") from error


def _executed(path: Path) -> ModuleType:
    """The module of a file; its name is its path, so it cannot clash with another module."""
    path = path.resolve()
    if not path.is_file():
        raise AdvdpnpError(f"there is no file {path}; check the path")
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
