"""What the runner calls: one argument replaces any of it, for experiments and tests."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from advdpnp.attacks import resolve_attacks
from advdpnp.attacks.engine.search import search
from advdpnp.corruption import corruption_cells

STATIC_BATCH_SIZES = {"cpu": 128, "cuda": 256}
"""Rows of every model call by device type: enough to keep the device busy, few enough to need little padding."""


_SMALLEST = 16


def small_batch_size(images: int, device: torch.device) -> int:
    """Rows of every model call where all images are known at once and nothing is stored.

    On a CPU a quarter of the images, so that several cores share them and little padding is computed, as a power of two
    from 16 to the default. It depends on nothing else, so the last bits are the same on any number of cores.
    """
    most = STATIC_BATCH_SIZES.get(device.type, STATIC_BATCH_SIZES["cpu"])
    wanted = images / 4 if device.type == "cpu" else images
    return min(most, max(_SMALLEST, 1 << math.ceil(math.log2(max(1, wanted)))))


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
