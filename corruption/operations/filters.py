"""Filters and resampling whose results for a sample are bit-identical in any batch.

Convolution and matrix libraries choose their order of summation by the shape of the batch, and truncation to uint8
turns a changed last bit into another level. All filters here are therefore sums of shifted copies in a fixed order.
Boundaries have the names of scipy.ndimage: "nearest" (a a | a b c | c c), "reflect" (b a | a b c | c b), "mirror"
(c b | a b c | b a).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def _nearest(index: Tensor, size: int) -> Tensor:
    return index.clamp(0, size - 1)


def _reflect(index: Tensor, size: int) -> Tensor:
    index = index % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def _mirror(index: Tensor, size: int) -> Tensor:
    period = max(2 * size - 2, 1)
    index = index % period
    return torch.minimum(index, period - index)


BOUNDARIES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "nearest": _nearest,
    "reflect": _reflect,
    "mirror": _mirror,
}


def pad(x: Tensor, margin: int, boundary: str, axes: Sequence[int] = (-2, -1)) -> Tensor:
    """Extend x by ``margin`` at both ends of each axis; the margin may exceed the size of the image."""
    if not margin:
        return x
    for axis in axes:
        size = x.shape[axis]
        x = x.index_select(axis, BOUNDARIES[boundary](torch.arange(-margin, size + margin, device=x.device), size))
    return x


def gaussian_kernel(sigma: float, radius: int) -> list[float]:
    """Weights of a Gaussian at -radius..radius, with sum 1; a sigma of 0 gives the identity."""
    weights = [math.exp(-0.5 * (i / sigma) ** 2) if sigma else float(i == 0) for i in range(-radius, radius + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


def correlate_valid(x: Tensor, kernel: Sequence[float], axis: int) -> Tensor:
    """Correlate along one axis without padding, which shortens the axis by len(kernel) - 1."""
    length = x.shape[axis] - len(kernel) + 1
    total = x.narrow(axis, 0, length) * kernel[0]
    for offset, weight in enumerate(kernel[1:], 1):
        # Not add(alpha=...): its vector and scalar code may round differently, and the batch decides which one runs.
        total += x.narrow(axis, offset, length) * weight
    return total


def gaussian_filter(x: Tensor, sigma: float, *, boundary: str = "nearest", truncate: float = 4.0) -> Tensor:
    """Gaussian filter of the last two axes, truncated at ``truncate`` standard deviations; sigma in pixels."""
    radius = int(truncate * sigma + 0.5)
    if not radius:
        return x
    kernel = gaussian_kernel(sigma, radius)
    for axis in (-1, -2):
        x = correlate_valid(pad(x, radius, boundary, (axis,)), kernel, axis)
    return x


def disk_sums(levels: Tensor, radius: float) -> tuple[Tensor, int]:
    """Sum of the levels within ``radius`` of each pixel, and the number of pixels in the disk.

    Args:
        levels: integers, (n, c, h + 2 r, w + 2 r) with r = int(radius).

    Returns:
        int32 (n, c, h, w), which is exact in any order of summation; and the number of pixels.
    """
    reach = int(radius)
    height, width = (side - 2 * reach for side in levels.shape[-2:])
    running = torch.nn.functional.pad(levels.to(torch.int32).cumsum(-1, dtype=torch.int32), (1, 0))
    total = torch.zeros(*levels.shape[:-2], height, width, dtype=torch.int32, device=levels.device)
    count = 0
    for dy in range(-reach, reach + 1):
        half = math.isqrt(int(radius**2 - dy**2 + 1e-9))
        rows = running.narrow(-2, reach + dy, height)
        total += rows.narrow(-1, reach + half + 1, width)
        total -= rows.narrow(-1, reach - half, width)
        count += 2 * half + 1
    return total, count


def motion_blur(levels: Tensor, radius: float, sigma: float, angle: Tensor) -> Tensor:
    """One-sided Gaussian blur along a line, like ImageMagick's, with nearest pixels and repeated borders.

    Args:
        levels: uint8 (n, c, h, w).
        radius: in pixels; the line has 2 ceil(radius) + 1 pixels.
        sigma: in pixels.
        angle: float64 (n,), in degrees.

    Returns:
        uint8, rounded, same shape.
    """
    n, c, h, w = levels.shape
    length = 2 * math.ceil(radius) + 1
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(length)]
    total = sum(weights)
    radians = angle * (math.pi / 180)
    across, down = torch.cos(radians), torch.sin(radians)
    rows, columns = torch.arange(h, device=levels.device), torch.arange(w, device=levels.device)
    source = levels.to(torch.float32).reshape(n, c, h * w)
    blurred = torch.zeros_like(source)
    for i, weight in enumerate(weights):
        if weight < 1e-7 * total:
            break
        y = _nearest(rows + torch.ceil(i * down - 0.5).long()[:, None], h)
        x = _nearest(columns + torch.ceil(i * across - 0.5).long()[:, None], w)
        position = (y[:, :, None] * w + x[:, None, :]).reshape(n, 1, h * w).expand(n, c, h * w)
        blurred += source.gather(2, position) * (weight / total)
    return (blurred + 0.5).to(torch.uint8).reshape(n, c, h, w)


def interpolate(x: Tensor, position: Tensor, axis: int) -> Tensor:
    """Linear interpolation along one axis at ``position``, float64 (m,), in pixels, clipped to the axis."""
    size = x.shape[axis]
    position = position.clamp(0, size - 1)
    left = position.floor().clamp(max=max(size - 2, 0)).long()
    shape = [1] * x.ndim
    shape[axis] = len(position)
    fraction = (position - left).to(x.dtype).reshape(shape)
    first = x.index_select(axis, left)
    return first + (x.index_select(axis, (left + 1).clamp(max=size - 1)) - first) * fraction


def zoom_positions(size: int, factor: float) -> Tensor:
    """Positions in the original of the pixels of a centre-cropped linear enlargement of one axis; float64 (size,).

    A crop of ceil(size / factor) pixels is enlarged with aligned end pixels, and then cropped at its centre.
    """
    crop = math.ceil(size / factor)
    enlarged = round(crop * factor)
    step = (crop - 1) / (enlarged - 1) if enlarged > 1 else 0.0
    return (size - crop) // 2 + (torch.arange(size, dtype=torch.float64) + (enlarged - size) // 2) * step


def zoom(x: Tensor, factor: float, axes: tuple[int, int] = (-2, -1)) -> Tensor:
    """Linear enlargement of two axes by a factor of at least 1, centre-cropped to the same size."""
    for axis in axes:
        x = interpolate(x, zoom_positions(x.shape[axis], factor).to(x.device), axis)
    return x


def enlarge(x: Tensor, height: int, width: int) -> Tensor:
    """Linear resampling of (..., h, w) to (..., height, width) with aligned pixel areas, for enlargement."""
    for axis, size in ((-2, height), (-1, width)):
        if x.shape[axis] != size:
            centres = (torch.arange(size, dtype=torch.float64) + 0.5) * (x.shape[axis] / size) - 0.5
            x = interpolate(x, centres.to(x.device), axis)
    return x


def sample_linear(x: Tensor, rows: Tensor, columns: Tensor, boundary: str) -> Tensor:
    """Bilinear interpolation at arbitrary positions.

    Args:
        x: (n, c, h, w).
        rows, columns: (n, h', w'), in pixels.
        boundary: extends the image beyond its borders (see ``BOUNDARIES``).

    Returns:
        (n, c, h', w').
    """
    n, c, h, w = x.shape
    fold = BOUNDARIES[boundary]
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top).to(x.dtype)[:, None], (columns - left).to(x.dtype)[:, None]
    flat = x.reshape(n, c, h * w)

    def corner(dy: int, dx: int) -> Tensor:
        position = fold(top.long() + dy, h) * w + fold(left.long() + dx, w)
        return flat.gather(2, position.reshape(n, 1, -1).expand(n, c, -1)).reshape(n, c, *rows.shape[1:])

    upper_left, lower_left = corner(0, 0), corner(1, 0)
    upper = upper_left + (corner(0, 1) - upper_left) * right
    lower = lower_left + (corner(1, 1) - lower_left) * right
    return upper + (lower - upper) * down
