"""What the runner calls: one argument replaces any of it, for experiments and tests."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from advdpnp.attacks import resolve_attacks
from advdpnp.attacks.engine.search import search
from advdpnp.corruption import corruption_cells

STATIC_BATCH_SIZES = {"cpu": 128, "cuda": 256}
"""Rows of every model call by device type: enough to keep the device busy, few enough to need little padding."""


@dataclass(frozen=True)
class Components:
    """The parts of the runner that can be replaced.

    Attributes:
        search: runs an attack, as ``advdpnp.attacks.engine.search.search``.
        resolve_attacks: turns names into attacks, as ``advdpnp.attacks.resolve_attacks``.
        corruption_cells: finds or makes corrupted images, as ``advdpnp.corruption.corruption_cells``.
        static_batch_size: rows of every model call; None takes the default of the device.
        transfer_block: samples whose adversarial images are transferred and stored together.
        patience: seconds after which another process that was never seen is dead.
    """

    search: Callable[..., Any] = search
    resolve_attacks: Callable[..., Any] = resolve_attacks
    corruption_cells: Callable[..., Any] = corruption_cells
    static_batch_size: int | None = None
    transfer_block: int = 1024
    patience: float = 60.0

    def first_batch_size(self, device: torch.device) -> int:
        """Rows of every model call, unless memory turns out to be short."""
        return self.static_batch_size or STATIC_BATCH_SIZES.get(device.type, STATIC_BATCH_SIZES["cpu"])
