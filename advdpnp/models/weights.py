"""Weights that other programs wrote: read without running code, loaded strictly, differences listed by name."""

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError

WRAPPERS = ("state_dict", "model_state_dict", "net", "model")
"""Keys under which training scripts put the weights beside other things."""

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel, DistributedDataParallel and torch.compile put in front of every name."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the named tensors of a ``.safetensors``, ``.pt``, ``.pth`` or ``.th`` file; the suffix does not matter.

    Wrappers (``state_dict``, ``net``, ``model``, ``model_state_dict``, lists of one) and the prefixes of parallel and
    compiled models are taken off. Nothing in the file is executed.

    Raises:
        AdvdpnpError: the file is missing, unreadable, cut short, holds no weights, or would run code when opened.
    """
    if is_safetensors(path):
        try:
            return _without_prefixes(load_file(path))
        except (SafetensorError, OSError) as error:
            raise AdvdpnpError(f"{path} is cut short or damaged ({error}); copy or make it again") from error
    return _without_prefixes(_unwrap(_load_pickle(path), path))


def is_safetensors(path: Path) -> bool:
    """Whether the file starts as safetensors do, whole or not: the length of a JSON header, then the header.

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
        raise AdvdpnpError(f"{path} is empty; copy or make it again")
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32


def load_into(model: nn.Module, state_dict: Mapping[str, Tensor], path: Path) -> None:
    """Copy ``state_dict`` into ``model``, all of it or nothing.

    BatchNorm's ``num_batches_tracked`` may be missing: files from before PyTorch 0.4.1 lack it, and nothing uses it.

    Args:
        path: where the tensors come from, for messages.

    Raises:
        AdvdpnpError: names are missing, unexpected or of another shape (listed), or a value is not finite.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state_dict and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state_dict if name not in own]
    shapes = [
        f"{name} {_shape(tensor)} for {_shape(own[name])}"
        for name, tensor in state_dict.items()
        if name in own and tensor.shape != own[name].shape
    ]
    problems = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    differences = [f"{what}: {_some(names)}" for what, names in problems if names]
    if differences:
        raise AdvdpnpError(
            f"the weights in {path} do not fit the model ({'; '.join(differences)}); name their own architecture"
        )
    bad = [name for name, tensor in state_dict.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise AdvdpnpError(f"{path} holds weights that are not finite ({_some(bad)}); use an earlier checkpoint")
    with torch.no_grad():
        for name, tensor in state_dict.items():
            own[name].copy_(tensor)


def _load_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of, the messages below say
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named or "REDUCE" in str(error):
            what = f" (it asks for {named[1]})" if named else ""
            raise AdvdpnpError(
                f"{path} would run code when opened{what}, so it was refused; ask its maker for the bare weights: "
                "torch.save(model.state_dict(), FILE)"
            ) from None
        raise AdvdpnpError(f"{path} is damaged or not a PyTorch file; copy or make it again") from error
    except Exception as error:  # torch.load raises nearly anything on files that are cut short or not its own
        if "TorchScript" in str(error):
            raise AdvdpnpError(f"{path} is a TorchScript program, not weights; save its state_dict instead") from None
        raise AdvdpnpError(f"{path} is cut short, damaged or not a PyTorch file; copy or make it again") from error


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
        raise AdvdpnpError(f"{path} holds no weights under a known name, only {keys}; save the state_dict alone")
    raise AdvdpnpError(f"{path} holds no weights but {type(content).__name__} data; save the model's state_dict")


def _without_prefixes(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES * 2:  # twice, for compiled models inside parallel ones and the other way round
        if all(name.startswith(prefix) for name in state_dict):
            state_dict = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items()}
    return state_dict


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
