"""Synthetic frost textures: needles of ice in patches of different directions, whitish blue on a dark pane.

The benchmark's generator crops five photographs that may not be redistributed. These textures replace them. They are
fixed (independent of the user's seed) and can be generated at any resolution. Their coarseness was chosen so that a
model of standard training loses about as much accuracy as on the photographs.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from advdpnp.base.randomness import Draw, seed_of

TEXTURES = 5
_BARE = (0.65, 0.58, 0.52, 0.46, 0.40)
"""Share of each texture that is free of ice."""

SIDE = 96
"""Side of a texture in pixels of the 32x32 benchmark, which allows 65 x 65 crops."""

_LATTICE = 64
_DIRECTIONS = 4
_SHADES = (0.04, 0.92)
"""Brightness of the bare pane and of thick ice."""
_BLUE_TINT = np.array([0.90, 1.0, 1.07])

Plane = NDArray[np.float64]


def _value_noise(draw: Draw, purpose: int, rows: Plane, columns: Plane) -> Plane:
    """Smooth noise on a torus at arbitrary positions: about one hill per unit, mean 0, standard deviation about 0.6."""
    lattice = draw.normal((_LATTICE, _LATTICE), purpose, dtype=torch.float64)[0].numpy()
    above, left = np.floor(rows), np.floor(columns)
    down, right = (t * t * (3 - 2 * t) for t in (rows - above, columns - left))
    y, x = above.astype(np.int64) % _LATTICE, left.astype(np.int64) % _LATTICE
    below, beyond = (y + 1) % _LATTICE, (x + 1) % _LATTICE
    upper = lattice[y, x] * (1 - right) + lattice[y, beyond] * right
    lower = lattice[below, x] * (1 - right) + lattice[below, beyond] * right
    return np.asarray(upper * (1 - down) + lower * down, dtype=np.float64)


def _needles(draw: Draw, purpose: int, rows: Plane, columns: Plane, angle: float, octaves: int) -> Plane:
    """Ridges with sharp crests along one direction, finer ones on top of coarse ones, in [0, 1]."""
    along = rows * np.sin(angle) + columns * np.cos(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    total, weight_sum = np.zeros_like(rows), 0.0
    for octave in range(octaves):
        cell, weight = 7.0 / 2**octave, 0.65**octave
        noise = _value_noise(draw, purpose + octave, across / cell, along / (4 * cell))
        total += weight * (1 - np.minimum(np.abs(noise) * 1.6, 1.0)) ** 1.5
        weight_sum += weight
    return total / weight_sum


def _texture(kind: int, side: int, octaves: int) -> Plane:
    """One texture, (3, side, side), in [0, 1]."""
    draw = Draw.of(seed_of("frost texture", kind), torch.zeros(1, dtype=torch.int64))
    grid = (np.arange(side) + 0.5) * (SIDE / side)
    rows, columns = np.meshgrid(grid, grid, indexing="ij")
    bend = [_value_noise(draw, 100 + axis, rows / 14, columns / 14) for axis in (0, 1)]
    rows, columns = rows + 1.5 * bend[0], columns + 1.5 * bend[1]
    turn = float(draw.uniform((), 200, dtype=torch.float64)[0]) * np.pi

    claims = np.stack([_value_noise(draw, 300 + i, rows / 22, columns / 22) for i in range(_DIRECTIONS)])
    shares = np.exp(9 * (claims - claims.max(0)))
    shares /= shares.sum(0)
    ice = np.zeros_like(rows)
    for i in range(_DIRECTIONS):
        angle = turn + np.pi * i / _DIRECTIONS
        ice += shares[i] * _needles(draw, 1000 + 100 * i, rows, columns, angle, octaves)

    cover = _value_noise(draw, 400, rows / 30, columns / 30)  # large-scale variation of the thickness
    light = ice + 0.12 * cover
    # The thickest ice is white and the thinnest shows the pane; textures differ in their bare share.
    bare, white = np.quantile(light, (_BARE[kind], 0.99))
    thickness = np.clip((light - bare) / (white - bare), 0, 1)
    shade = _SHADES[0] + (_SHADES[1] - _SHADES[0]) * thickness**0.65
    return np.asarray(np.clip(shade * _BLUE_TINT[:, None, None] ** (1.6 - shade), 0, 1), dtype=np.float64)


@lru_cache(maxsize=4)
def frost_textures(scale: float) -> Tensor:
    """All textures for images ``scale`` times as large as 32x32; float32, shape (5, 3, s, s) with s = 96 * scale.

    Larger images have additional finer needles.
    """
    side = round(SIDE * scale)
    octaves = 3 + max(0, min(2, round(np.log2(scale))))
    levels = np.stack([_texture(kind, side, octaves) for kind in range(TEXTURES)])
    return torch.from_numpy(np.floor(levels * 255) / 255).to(torch.float32)
