"""Checkpoints: weights in a safetensors file, with a JSON header that describes the model and its training."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import atomic_path
from advdpnp.base.randomness import isolated_rng
from advdpnp.base.untrusted.files import describe_fault
from advdpnp.base.versions import software_versions
from advdpnp.models import ModelConfig, Network, build_model
from advdpnp.models.classifier import Classifier
from advdpnp.models.ed_wta import require_positive_scale
from advdpnp.models.header import FORMAT, Header, NewerFormat, parse_header
from advdpnp.models.weights import is_safetensors, load_into

_KEY = "advdpnp"
_FREE = ("classes", "head", "radius", "temperature", "subclasses", "winner", "mean", "std")


def save_checkpoint(path: Path, model: Network, header: Mapping[str, Any]) -> None:
    """Write ``model`` to ``path`` atomically.

    Args:
        path: usually ``*.safetensors``.
        model: on any device and in any memory format.
        header: JSON values: dataset, method, recipe, metrics, class_names, name... The format version, the model's
            configuration and the software versions are added.

    Raises:
        AdvdpnpError: the file cannot be written.
    """
    full = {"versions": software_versions(), **header, "format": FORMAT, "model": model.config.to_dict()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: json.dumps(full)})


def load_checkpoint(path: Path) -> tuple[Network, dict[str, Any]]:
    """Read a checkpoint: the network (fp32, CPU, eval mode) and its header, as far as ``Header`` names it.

    Nothing is allocated by a number in the header that the tensors in the file do not explain.

    Args:
        path: the file, or a run folder that contains ``best.safetensors``.

    Raises:
        AdvdpnpError: the file is missing, truncated, of another format or a newer version, or its weights are not
            finite, do not match the model in its header or make no sense in it.
    """
    path = checkpoint_file(path)
    header, tensors = _read(path)
    with isolated_rng():
        model = _build(header.model, tensors, path)
    load_into(model, tensors, path)
    require_positive_scale(model.head, str(path))
    return model.float().eval(), header.model_dump(mode="json")


def _build(config: ModelConfig, tensors: Mapping[str, Tensor], path: Path) -> Network:
    try:
        with _Budget(2 * 4 * sum(tensor.numel() for tensor in tensors.values()) + _SLACK):
            return build_model(config)
    except AdvdpnpError as error:
        raise AdvdpnpError(f"the model of {path} cannot be built: {error}") from error


_SLACK = 2**24  # bytes, of buffers that are not in the file
_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.linspace}


class _Budget(TorchFunctionMode):
    """Stops a model that takes more memory than its weights explain, before it does.

    Args:
        left: bytes.
    """

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES:
            outline = func(*args, **{**kwargs, "device": "meta", **dict.fromkeys(set(kwargs) & {"generator"})})
            self.left -= outline.numel() * outline.element_size()
            if self.left < 0:
                raise AdvdpnpError("its header describes a larger model than its weights are")
        return func(*args, **kwargs)


def build_from_checkpoint(config: ModelConfig, path: Path) -> Network:
    """Build a network with the normalisation, backbone and projection of a checkpoint, and a new head.

    Args:
        config: what to build; its mean and std are replaced by those of the checkpoint.
        path: as for ``load_checkpoint``.

    Raises:
        AdvdpnpError: the checkpoint cannot be loaded, or is of another architecture or of other images.
    """
    trained, _ = load_checkpoint(path)
    for key, wanted in config.to_dict().items():
        theirs = getattr(trained.config, key)
        if key not in _FREE and theirs != wanted:
            raise AdvdpnpError(
                f"the {key} of {path} is {theirs}, but this run needs {wanted}; set model.{key} or use another "
                "checkpoint"
            )
    network = build_model(replace(config, mean=trained.config.mean, std=trained.config.std))
    network.backbone.load_state_dict(trained.backbone.state_dict())
    network.projection.load_state_dict(trained.projection.state_dict())
    return network


def has_header(path: Path) -> bool:
    """Whether ``path`` is a file with a header of this program. Raises the errors of ``weights.is_safetensors``."""
    if not is_safetensors(path):
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return _KEY in (file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def checkpoint_file(path: Path) -> Path:
    """The checkpoint file of ``path``: the path itself, or ``best.safetensors`` in a run folder.

    Raises:
        AdvdpnpError: it is a folder without that file.
    """
    if not os.path.isdir(path):  # returns False for invalid names, for which Path.is_dir raises
        return path
    if not (path / "best.safetensors").is_file():
        last = path / "last.safetensors"
        hint = f"name {last} instead" if last.is_file() else "has its training saved anything yet?"
        raise AdvdpnpError(f"the folder {path} has no best.safetensors; {hint}")
    return path / "best.safetensors"


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers, as 64 hexadecimal digits.

    The hash does not depend on the device or the memory format. It includes buffers that are not in the state_dict:
    models of other projects may store their normalisation there, and another normalisation makes another model. So does
    another precision, and another input range of a ``Classifier``, which itself adds nothing else to the net's hash.
    """
    digest = hashlib.sha256()
    if isinstance(model, Classifier):
        digest.update(b"" if model.input_range is None else f"input range {model.input_range}\x1f".encode())
        model = model.net
    tensors: dict[str, Tensor] = dict(model.named_buffers(remove_duplicate=False))
    tensors.update(model.named_parameters(remove_duplicate=False))
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    if not is_safetensors(path):
        raise AdvdpnpError(
            f"{path} is not a checkpoint of this program (not safetensors); to use weights of another program, name "
            f"their architecture: --model NAME --weights {path}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = _header((file.metadata() or {}).get(_KEY), path)
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> AdvdpnpError:
    return AdvdpnpError(f"{path} is truncated or damaged ({describe_fault(error)}); copy or create it again")


def _header(text: str | None, path: Path) -> Header:
    if text is None:
        raise AdvdpnpError(
            f"{path} has weights but no header of this program; name their architecture: --model NAME --weights {path}"
        )
    try:
        return parse_header(text)
    except NewerFormat as error:
        raise AdvdpnpError(f"{path} was written by a newer version ({error}); update advdpnp") from error
    except ValueError as error:
        raise AdvdpnpError(
            f"the header of {path} is damaged ({describe_fault(error)}); copy or create it again"
        ) from error
