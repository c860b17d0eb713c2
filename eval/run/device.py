"""The device of an evaluation, and models that are moved to it for a while."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from advdpnp.attacks.engine.executor import lost, not_finite
from advdpnp.base.devices import OUT_OF_MEMORY, TYPES, has_float64
from advdpnp.base.errors import AdvdpnpError, ModelFailure, first_line


def choose_device(device: str | torch.device | None) -> torch.device:
    """None and "auto" take a CUDA GPU if there is one.

    Raises:
        AdvdpnpError: no such device.
    """
    if device is None or str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        if chosen.type not in TYPES:
            raise RuntimeError(f"{chosen.type} is none of {', '.join(TYPES)}")
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise AdvdpnpError(f"the device '{device}' cannot be used here; choose cpu, or see 'advdpnp doctor'") from error
    return chosen


def device_name(device: torch.device) -> str:
    """For the record: "NVIDIA H200", or the CPU's architecture and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "xpu":
        return str(torch.xpu.get_device_name(device))
    threads = torch.get_num_threads()
    return f"{device.type} ({platform.machine()}, {threads} thread{'s' * (threads > 1)})"


@contextmanager
def on_device(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Move the model to ``device`` and back afterwards; a model that is there already is not touched."""
    places = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    moved = any(place.type != device.type or (place.index or 0) != (device.index or 0) for place in places)
    if moved and len(places) > 1:
        raise AdvdpnpError("the model is spread over several devices; put it on one before it is evaluated")
    if not has_float64(device) and any(t.dtype == torch.float64 for t in (*model.parameters(), *model.buffers())):
        raise AdvdpnpError(
            f"the model has weights in float64, which {device.type} has not; use --device cpu or --dtype float32"
        )
    if moved:
        model.to(device)
    try:
        yield
    finally:
        if moved:
            model.to(next(iter(places)))


def require_answers(logits: Tensor) -> None:
    """Refuse a model whose logits (n, classes) are finite for no image at all.

    Raises:
        ModelError: they are.
    """
    if bool(lost(logits).all()):
        raise not_finite("all")


def require_labels(labels: Tensor, classes: int, name: str) -> None:
    """Refuse a model with too few classes for these labels, int64 (n,).

    Raises:
        AdvdpnpError: it has.
    """
    if (largest := int(labels.max())) >= classes:
        raise AdvdpnpError(
            f"the labels go up to {largest}, but {name} has {classes} classes; evaluate it on images of its own classes"
        )


@contextmanager
def user_code(what: str, remedy: str) -> Iterator[None]:
    """Turn whatever the model's own code raises inside into one sentence: what failed, the error, a remedy."""
    try:
        yield
    except ModelFailure as error:
        raise AdvdpnpError(f"{what}: {error.raised}; {remedy}") from error
    except (*OUT_OF_MEMORY, AdvdpnpError):
        raise
    except (Exception, SystemExit) as error:
        raise AdvdpnpError(f"{what}: {first_line(error)}; {remedy}") from error
