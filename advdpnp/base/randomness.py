"""Counter-based random numbers: each is a function of a key and counters, never of earlier draws.

Every number is a hash of (seed, purpose, sample, counters), computed with 64-bit integer arithmetic, which wraps in
the same way on CPU and GPU. The draws of a sample therefore do not depend on its batch, its position in the batch, or
interruptions. The hash is the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
generators", 2014).
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64; torch's own shift is arithmetic."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """Hash in place, overwriting ``x``: allocating memory at every step would cost more than the arithmetic."""
    x ^= _shift(x, 30)
    x *= _MIX_1
    x ^= _shift(x, 27)
    x *= _MIX_2
    x ^= _shift(x, 31)
    return x


_SMALL = 4096  # up to this many numbers the overhead of calls dominates, and NumPy's is lower than torch's
_GOLDEN_U, _MIX_1_U, _MIX_2_U = (np.uint64(number % 2**64) for number in (_GOLDEN, _MIX_1, _MIX_2))


def _mix_array(x: np.ndarray) -> np.ndarray:
    """``_mix`` for uint64, whose shifts are logical."""
    x ^= x >> np.uint64(30)
    x *= _MIX_1_U
    x ^= x >> np.uint64(27)
    x *= _MIX_2_U
    x ^= x >> np.uint64(31)
    return x


def _few_bits(key: Tensor, count: int, counters: tuple[int | Tensor, ...]) -> Tensor:
    """``Draw.bits`` of shape (n, count), for keys on the CPU."""
    numbers = key.numpy().view(np.uint64)
    for counter in counters:
        number = counter.numpy() if isinstance(counter, Tensor) else np.full(1, counter)
        numbers = _mix_array(numbers + _GOLDEN_U * (number.astype(np.int64) + 1).view(np.uint64))
    positions = np.arange(1, count + 1, dtype=np.uint64)
    return torch.from_numpy((_mix_array(numbers[:, None] + _GOLDEN_U * positions) >> np.uint64(1)).view(np.int64))


def _signed(number: int) -> int:
    """The number modulo 2**64, as int64 has it."""
    return (number + 2**63) % 2**64 - 2**63


@cache
def _steps(count: int, device: torch.device) -> Tensor:
    """What a stream adds for each of its first ``count`` numbers, int64 (count,). Kept, as graphs read it in place."""
    return _GOLDEN * torch.arange(1, count + 1, device=device, dtype=torch.int64)


def seed_of(*parts: object) -> int:
    """A signed 64-bit root key, hashed from the text of ``parts``: one key for each purpose of a run."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


@dataclass(frozen=True)
class Draw:
    """One random stream per sample.

    Attributes:
        key: int64, shape (n,).
    """

    key: Tensor

    @classmethod
    def of(cls, seed: int, sample: Tensor) -> "Draw":
        """Streams for the samples with these indices (int64, shape (n,)) under the root key ``seed``."""
        return cls(_mix(_mix(sample * _GOLDEN + seed) + _GOLDEN))

    def __getitem__(self, index: Tensor | slice) -> "Draw":
        return Draw(self.key[index])

    def bits(self, shape: tuple[int, ...], *counters: int | Tensor) -> Tensor:
        """Random 63-bit non-negative integers, int64, shape (n, *shape).

        Args:
            shape: shape of one sample's numbers.
            counters: identify this draw (restart, iteration...); each is one number, or one number per sample.
        """
        key, count = self.key, math.prod(shape)
        if key.device.type == "cpu" and len(key) * count <= _SMALL:
            return _few_bits(key, count, counters).reshape(len(key), *shape)
        for counter in counters:
            if isinstance(counter, Tensor):
                key = _mix(torch.add(key, counter + 1, alpha=_GOLDEN))
            else:
                key = _mix(key + _signed(_GOLDEN * (counter + 1)))
        bits = _mix(key[:, None] + _steps(count, key.device))
        return (bits.bitwise_right_shift_(1).bitwise_and_((1 << 63) - 1)).reshape(len(key), *shape)

    def uniform(self, shape: tuple[int, ...], *counters: int | Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform in [0, 1), shape (n, *shape): multiples of 2**-24, so exact in float32 on every device."""
        return self.bits(shape, *counters).bitwise_right_shift_(39).to(dtype).mul_(2.0**-24)

    def normal(self, shape: tuple[int, ...], *counters: int | Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal, shape (n, *shape), by the Box-Muller transform."""
        radius = torch.sqrt(-2 * torch.log1p(-self.uniform(shape, 0, *counters, dtype=dtype)))
        return radius * torch.cos(2 * math.pi * self.uniform(shape, 1, *counters, dtype=dtype))

    def integers(self, shape: tuple[int, ...], high: int, *counters: int | Tensor) -> Tensor:
        """Integers in [0, high), int64, shape (n, *shape); high must be far below 2**31."""
        return (self.bits(shape, *counters) >> 31) * high >> 32


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Restore the global generators (Python, NumPy, torch on every device) at the end of the block."""
    import random

    python, numpy = random.getstate(), np.random.get_state()
    cuda, intel, has_apple = _accelerators()
    apple = torch.mps.get_rng_state() if has_apple else None
    with (
        torch.random.fork_rng(devices=range(cuda)),
        torch.random.fork_rng(devices=range(intel), enabled=bool(intel), device_type="xpu"),
    ):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            if apple is not None:
                torch.mps.set_rng_state(apple)


@contextmanager
def seeded_rng(seed: int) -> Iterator[None]:
    """``isolated_rng`` with torch's generators set to a seed in the block."""
    with isolated_rng():
        if any(_accelerators()):
            torch.manual_seed(seed)
        else:  # the same, but torch.manual_seed notes a traceback for a GPU that may come: 2 ms
            torch.default_generator.manual_seed(seed)
        yield


@cache
def _accelerators() -> tuple[int, int, bool]:
    """Numbers of CUDA and XPU devices, and whether MPS is there. Asking the drivers every time takes long."""
    return torch.cuda.device_count(), torch.xpu.device_count(), torch.backends.mps.is_available()
