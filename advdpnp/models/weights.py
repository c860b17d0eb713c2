"""Reads weight files of other programs without running code, and loads them strictly into a model."""

import logging
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.untrusted.text import printable

_logger = logging.getLogger("advdpnp")

WRAPPERS = ("state_dict", "model_state_dict", "net", "model")
"""Keys under which training scripts store the weights next to other values."""

PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that DataParallel, DistributedDataParallel and torch.compile add to every name."""


def read_state_dict(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Read the named tensors of a ``.safetensors``, ``.pt``, ``.pth``, ``.th`` or ``.ckpt`` file, whatever its suffix.

    Wrappers (``state_dict``, ``net``, ``model``, ``model_state_dict``, lists of one) and the prefixes of parallel and
    compiled models are removed. No code in the file is executed, and objects beside the weights (hyper-parameters, as
    Lightning saves them) are never built.

    Args:
        key: where the weights are: a key of the file ("ema", "ema.shadow"), or else a prefix of names ("ema_model").

    Raises:
        AdvdpnpError: the file is missing, unreadable or truncated, has no weights or none under ``key``, or would run
            code when opened.
    """
    if is_safetensors(path):
        try:
            content: Any = load_file(path)
        except (SafetensorError, OSError) as error:
            raise AdvdpnpError(f"{path} is truncated or damaged ({error}); copy or create it again") from error
    else:
        content = _load_pickle(path)
    if key is not None:
        content = _below(content, key, path)
    found = _unwrap(content, path)
    if key is None and (others := _other_weights(content, found)):
        _logger.warning(
            f"{printable(str(path))} has weights under {' and '.join(map(printable, others))} too (averaged ones, "
            f"perhaps): those of the net itself were taken; --weights-key {printable(others[0])} takes the others"
        )
    return _without_prefixes(found)


def _other_weights(content: Any, found: Mapping[str, Tensor]) -> list[str]:
    """Where a file has a second copy of the weights (``ema``, ``state_dict_ema``): as many tensors of these shapes."""
    shapes = Counter(tuple(tensor.shape) for tensor in found.values())
    others = []
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if not isinstance(value, Mapping):
            continue
        for inner, below in (("", value), *((f".{name}", each) for name, each in value.items())):
            tensors = (
                [each for each in below.values() if isinstance(each, Tensor)] if isinstance(below, Mapping) else []
            )
            alike = Counter(tuple(each.shape) for each in tensors) & shapes
            same = {each.data_ptr() for each in tensors} & {each.data_ptr() for each in found.values()}
            if not same and 2 * alike.total() > len(found):
                others.append(f"{key}{inner}")
    return others


def without_prefix(state_dict: dict[str, Tensor], names: Iterable[str], path: Path) -> dict[str, Tensor]:
    """The tensors below the one prefix ("model.") under which all ``names`` are found, as a LightningModule has them.

    ``state_dict`` itself is returned if it has the names as they are, or if there is no such prefix.

    Raises:
        AdvdpnpError: there are several.
    """
    wanted = [name for name in names if not name.endswith("num_batches_tracked")]
    if not wanted or all(name in state_dict for name in wanted):
        return state_dict
    prefixes = [name.removesuffix(wanted[0]) for name in state_dict if name.endswith(f".{wanted[0]}")]
    fitting = [prefix for prefix in prefixes if all(prefix + name in state_dict for name in wanted)]
    first, *copies = fitting or [""]
    if all(torch.equal(state_dict[first + name], state_dict[copy + name]) for copy in copies for name in wanted):
        fitting = fitting[:1]  # one net under several names, as a wrapper of attacks holds its model twice
    if len(fitting) > 1:
        raise AdvdpnpError(
            f"{path} has weights for the model under {' and '.join(prefix[:-1] for prefix in fitting)}; choose one "
            "with --weights-key"
        )
    return _starting_with(state_dict, fitting[0]) if fitting else state_dict


def is_safetensors(path: Path) -> bool:
    """Whether the file starts like safetensors, with the length of a JSON header and the header; it may be truncated.

    Raises:
        AdvdpnpError: the file is missing, a folder, empty, or cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            start = stream.read(9)
    except FileNotFoundError:
        raise AdvdpnpError(f"there is no file {path}; check the path") from None
    except IsADirectoryError:
        raise AdvdpnpError(f"{path} is a folder, not a file of weights; name the file in it") from None
    except OSError as error:
        raise AdvdpnpError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise AdvdpnpError(f"{str(path)!r} cannot be the name of a file ({error}); check the path") from error
    if not start:
        raise AdvdpnpError(f"{path} is empty; copy or create it again")
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32


def load_into(model: nn.Module, state_dict: dict[str, Tensor], path: Path) -> None:
    """Copy all tensors of ``state_dict`` into ``model``; after an error, the model is unchanged.

    Where all names of the model have one prefix, the tensors below it are meant (see ``without_prefix``).

    BatchNorm's ``num_batches_tracked`` may be missing: files older than PyTorch 0.4.1 lack it, and nothing uses it.

    Args:
        path: the file of the tensors, for messages.

    Raises:
        AdvdpnpError: tensors are missing, unexpected or of another shape (the message lists them), or not finite.
    """
    own = model.state_dict()
    state_dict = without_prefix(state_dict, own, path)
    check_fit(own, state_dict, path)
    converted = {name: tensor.to(own[name].dtype) for name, tensor in state_dict.items()}
    bad = [name for name, tensor in converted.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise AdvdpnpError(f"{path} has weights that are not finite ({_some(bad)}); use an earlier checkpoint")
    with torch.no_grad():
        for name, tensor in converted.items():
            own[name].copy_(tensor)


def check_fit(own: Mapping[str, Tensor], state_dict: Mapping[str, Tensor], path: Path) -> None:
    """Check that tensors are those that a model has.

    Args:
        own: the model's, which may be without memory (meta).
        state_dict: those of the file.
        path: the file, for messages.

    Raises:
        AdvdpnpError: tensors are missing, unexpected, complex or of another shape; the message lists them.
    """
    missing = [name for name in own if name not in state_dict and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state_dict if name not in own]
    shapes = [
        f"{name} {_shape(tensor)} for {_shape(own[name])}"
        for name, tensor in state_dict.items()
        if name in own and tensor.shape != own[name].shape
    ]
    imaginary = [name for name, tensor in state_dict.items() if tensor.is_complex() and name in own]
    problems = [
        ("missing", missing), ("unexpected", unexpected), ("of another shape", shapes), ("complex", imaginary),
    ]  # fmt: skip
    differences = [f"{what}: {_some(names)}" for what, names in problems if names]
    if differences:
        raise AdvdpnpError(
            f"the weights in {path} do not fit the model ({'; '.join(differences)}); name their own architecture, "
            "of the same width and number of classes"
        )


class _NotBuilt:
    """Stands for an object in a file that is neither a tensor nor a simple value: nothing of it is kept or run."""

    def __new__(cls, *arguments: object) -> "_NotBuilt":
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _load_without_objects(path: Path) -> Any:
    """As ``weights_only`` loads, with a ``_NotBuilt`` for every object that it would refuse; None where that fails."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        stand_ins: list[Any] = [(type("_NotBuilt", (_NotBuilt,), {}), name) for name in names]
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # the caller has an error to raise
        return None
    return content if isinstance(content, Mapping) else None


def _load_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the messages below cover what it warns about
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if (content := _load_without_objects(path)) is not None:
            return content
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named or "REDUCE" in str(error):
            what = f" (it asks for {named[1]})" if named else ""
            raise AdvdpnpError(
                f"{path} would run code when opened{what}, so it was rejected; ask its author for the weights alone: "
                "torch.save(model.state_dict(), FILE)"
            ) from None
        raise AdvdpnpError(f"{path} is damaged or not a PyTorch file; copy or create it again") from error
    except Exception as error:  # torch.load raises errors of many types on truncated or unrelated files
        if "TorchScript" in str(error):
            raise AdvdpnpError(
                f"{path} is a TorchScript program, not weights; if you trust it, name it as --model torchscript:{path}"
            ) from None
        raise AdvdpnpError(f"{path} is truncated, damaged or not a PyTorch file; copy or create it again") from error


def _below(content: Any, key: str, path: Path) -> Any:
    """What a file has under ``key``, which may lead through several levels ("ema.shadow") or be a prefix of names."""
    found = content
    for part in [key] if isinstance(content, Mapping) and key in content else key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if found is not None:
        return found
    with suppress(AdvdpnpError):
        if below := _starting_with(_without_prefixes(_unwrap(content, path)), f"{key}."):
            return below
    keys = _some(sorted({str(name).partition(".")[0] for name in content} if isinstance(content, Mapping) else {}))
    raise AdvdpnpError(f"{path} has nothing under '{key}'; its keys are {keys or 'none'}")


def _starting_with(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    while True:
        if isinstance(content, Mapping):
            wrapped = (content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping | list | tuple))
            inner = next(wrapped, None)
            if inner is None:
                break
            content = inner
        elif isinstance(content, Sequence) and not isinstance(content, str | bytes) and len(content) == 1:
            content = content[0]
        else:
            break
    if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
        return {str(name): tensor.detach() for name, tensor in content.items()}
    if isinstance(content, Mapping) and content:
        keys = _some([str(key) for key in content])
        raise AdvdpnpError(
            f"{path} has no weights under a known name, only {keys}; choose one with --weights-key, or save the "
            "state_dict alone"
        )
    raise AdvdpnpError(f"{path} has no weights, only a {type(content).__name__}; save the model's state_dict")


def _without_prefixes(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES * 2:  # twice, because compiled and parallel wrappers nest in either order
        if all(name.startswith(prefix) for name in state_dict):
            state_dict = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items()}
    return state_dict


def _shape(tensor: Tensor) -> str:
    return printable("x".join(map(str, tensor.shape)), 60) or "scalar"


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(printable(name, 120) for name in names[:limit]) + more
