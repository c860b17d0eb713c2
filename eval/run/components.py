"""What the runner calls: one argument replaces any of it, for experiments and tests."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advdpnp.attacks import resolve_attacks
from advdpnp.attacks.engine.executor import evaluation_mode
from advdpnp.attacks.engine.precision import FLOAT32, Choice, candidates, check_precision, fastest_precision
from advdpnp.attacks.engine.search import search
from advdpnp.base.devices import single_threaded
from advdpnp.corruption import corruption_cells

STATIC_BATCH_SIZES = {"cpu": 128, "cuda": 256}
"""Rows of every model call by device type: enough to keep the device busy, few enough to need little padding."""


_SMALLEST = 16


def small_batch_size(images: int, device: torch.device) -> int:
    """Rows of every model call where all images are known at once and nothing is stored.

    On a CPU a quarter of the images, so that little padding is computed for the few that hold out, as a power of two
    from 16 to the default. It depends on nothing else, so the last bits are the same on any number of cores.
    """
    most = STATIC_BATCH_SIZES.get(device.type, STATIC_BATCH_SIZES["cpu"])
    wanted = images / 4 if device.type == "cpu" else images
    return min(most, max(_SMALLEST, 1 << math.ceil(math.log2(max(1, wanted)))))


def choose_precision(
    asked: str,
    model: nn.Module,
    images: Tensor | None,
    shape: tuple[int, int],
    device: torch.device,
    stored: Callable[[str], int] = lambda precision: 0,
) -> Choice:
    """Resolve ``asked``. "auto" keeps to what is stored of this model; else it times the precisions on the images.

    Args:
        asked: "32", "tf32", "bf16" or "auto".
        model: on ``device``.
        images: some images in [0, 1], (n, c, h, w). None where nothing may be timed, and "auto" is float32: for a
            randomised model, whose noise hides differences of precision.
        shape: the static batch size, and the number of images that are searched.
        stored: how many verdicts there are of searches in a precision.

    Raises:
        AdvdpnpError: the precision is unknown, or the device does not support it.
    """
    if check_precision(asked, device) != "auto":
        return Choice(asked)
    found = {precision: stored(precision) for precision in candidates(device)}
    if len(set(found.values())) > 1:  # minimum-norm attacks alone are stored the same under all
        return Choice(max(found, key=lambda precision: found[precision]))
    if images is None:
        return Choice(FLOAT32)
    size, count = shape
    each = -(-count // torch.get_num_threads()) if device.type == "cpu" else size
    with evaluation_mode(model), single_threaded(device.type == "cpu"):
        return fastest_precision(model, images, min(size, max(_SMALLEST, -(-each // 8) * 8)), device)


@dataclass(frozen=True)
class Components:
    """The parts of the runner that can be replaced.

    Attributes:
        search: runs an attack, as ``advdpnp.attacks.engine.search.search``.
        resolve_attacks: turns names into attacks, as ``advdpnp.attacks.resolve_attacks``.
        corruption_cells: finds or makes corrupted images, as ``advdpnp.corruption.corruption_cells``.
        static_batch_size: rows of every model call; None takes the default of the device.
        transfer_block: samples whose adversarial images are transferred and stored together.
    """

    search: Callable[..., Any] = search
    resolve_attacks: Callable[..., Any] = resolve_attacks
    corruption_cells: Callable[..., Any] = corruption_cells
    static_batch_size: int | None = None
    transfer_block: int = 1024

    def first_batch_size(self, device: torch.device) -> int:
        """Rows of every model call, unless memory turns out to be short."""
        return self.static_batch_size or STATIC_BATCH_SIZES.get(device.type, STATIC_BATCH_SIZES["cpu"])
