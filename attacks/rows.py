"""Records with one row per sample: tensors that are indexed, concatenated and padded together.

Rows are independent, so rows of different iterations can share a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from advdpnp.base.randomness import Draw

R = TypeVar("R", bound="Rows")


@dataclass(frozen=True)
class Rows:
    """Base of frozen dataclasses with one row per sample.

    Every field is a Tensor with the samples in dimension 0, a Draw or another Rows.
    """

    @classmethod
    @cache
    def _names(cls) -> tuple[str, ...]:
        """Names of the fields, cached because every iteration needs them."""
        return tuple(field.name for field in fields(cls))

    def __len__(self) -> int:
        return _length(getattr(self, self._names()[0]))

    def __getitem__(self, index: Tensor | slice) -> Self:
        if isinstance(index, slice) and index.indices(len(self)) == (0, len(self), 1):
            return self  # the usual case is a full batch, and slicing costs a view per tensor
        return type(self)(**{name: getattr(self, name)[index] for name in self._names()})

    def take(self, places: Sequence[int]) -> Self:
        """The rows at these places, in this order."""
        if len(places) == len(self) and all(place == number for number, place in enumerate(places)):
            return self
        first = getattr(self, self._names()[0])
        return self[torch.tensor(places, dtype=torch.int64, device=_device(first))]

    def select(self, *masks: Tensor) -> list[Self]:
        """The rows of each mask, bool (n,). The host waits for the device once."""
        return [
            self.take([place for place, chosen in enumerate(mask) if chosen]) for mask in torch.stack(masks).tolist()
        ]

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Concatenate the rows of ``parts``, which must not be empty. A single part is returned without a copy."""
        if len(parts) == 1:
            return parts[0]
        return cls(**{name: _concatenate([getattr(part, name) for part in parts]) for name in cls._names()})

    def where(self, mask: Tensor, other: Self) -> Self:
        """Take rows of ``self`` where ``mask``, bool (n,), is true and rows of ``other`` elsewhere."""
        views = {1: mask}  # by the number of dimensions, as every view costs an accelerator's host as much as a kernel
        return type(self)(**{name: _where(views, getattr(self, name), getattr(other, name)) for name in self._names()})

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to every tensor."""
        return type(self)(**{name: _mapped(getattr(self, name), function) for name in self._names()})

    def tensors(self) -> list[Tensor]:
        """Every tensor, in the order of the fields."""
        found = list[Tensor]()
        self.map(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
        return found

    def to(self, device: torch.device | str) -> Self:
        """Move every tensor to ``device``."""
        return self.map(lambda tensor: tensor.to(device))

    def padded(self, length: int) -> Self:
        """Repeat the last row until there are ``length`` rows, because model calls have a fixed shape."""
        if len(self) == length:
            return self
        first = getattr(self, self._names()[0])
        return self[torch.arange(length, device=_device(first)).clamp(max=len(self) - 1)]


@dataclass(frozen=True)
class Batch(Rows):
    """Images with their labels.

    Attributes:
        x: images in [0, 1], (n, c, h, w).
        y: labels, int64 (n,).
        sample: indices of the samples in the data set, int64 (n,).
    """

    x: Tensor
    y: Tensor
    sample: Tensor


def _length(value: Any) -> int:
    return len(value.key) if isinstance(value, Draw) else len(value)


def _concatenate(values: list[Any]) -> Any:
    if isinstance(values[0], Draw):
        return Draw(torch.cat([value.key for value in values]))
    return torch.cat(values) if isinstance(values[0], Tensor) else values[0].concatenate(values)


def where_rows(mask: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """Select ``images`` where ``mask`` is true and ``others`` elsewhere; the values are copied exactly.

    Args:
        mask: bool, (n,) to select whole rows, or any shape that broadcasts to the images; or its ``weights``.
        images: finite floats, (n, c, h, w).
        others: as ``images``.
    """
    chosen = weights(mask, images.dtype) if mask.dim() == 1 or mask.device.type == "cpu" else mask
    return torch.lerp(others, images, chosen) if chosen.is_floating_point() else torch.where(chosen, images, others)


def weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask for several calls of ``where_rows``. That of rows, bool (n,), becomes (n, 1, 1, 1).

    On a CPU it becomes one and zero: there ``torch.lerp`` takes a quarter of the time of ``torch.where``, which is not
    vectorised over masks. On accelerators it stays bool, which saves the launch that converts it.
    """
    weight = mask.to(dtype) if mask.device.type == "cpu" else mask
    return weight.view(-1, 1, 1, 1) if mask.dim() == 1 else weight


def _where(views: dict[int, Tensor], value: Any, other: Any) -> Any:
    if value is other:
        return value
    if isinstance(value, Draw):
        return value if value.key is other.key else Draw(torch.where(views[1], value.key, other.key))
    if isinstance(value, Rows):
        return value.where(views[1], other)
    if value.dim() not in views:
        views[value.dim()] = views[1].reshape(-1, *[1] * (value.dim() - 1))
    return torch.where(views[value.dim()], value, other)


def _device(value: Any) -> torch.device:
    if isinstance(value, Rows):
        return _device(getattr(value, value._names()[0]))
    return (value.key if isinstance(value, Draw) else value).device  # type: ignore[no-any-return]


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Draw):
        return Draw(function(value.key))
    return value.map(function) if isinstance(value, Rows) else function(value)


def any_row(mask: Tensor) -> bool:
    """Whether ``mask`` may be true for any row.

    Always true on other devices than the CPU: reading the mask would make the host wait for the device.
    """
    return mask.device.type != "cpu" or bool(mask.any())


def count(parts: Sequence[Rows]) -> int:
    """Total number of rows."""
    return sum(map(len, parts))


def non_empty(rows: R) -> list[R]:
    """A list of ``rows``, or an empty list if there are no rows."""
    return [rows] if len(rows) else []
