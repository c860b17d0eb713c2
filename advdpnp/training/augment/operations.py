"""Operations on batches of images with one strength per image, for policies that choose among them.

torchvision has the same operations with one strength per call, and the tests compare with them. Called image by image,
they take several times as long.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

#: From uint8 images (n, c, h, w) and strengths (n,) to images of the same shape and type.
Operation = Callable[[Tensor, Tensor], Tensor]


def uniform(n: int, count: int, generator: torch.Generator) -> Tensor:
    """Random numbers in [0, 1), float64, shape (count, n), on the generator's device."""
    return torch.rand((count, n), generator=generator, device=generator.device, dtype=torch.float64)


def apply(images: Tensor, operations: Sequence[Operation], choice: Tensor, strength: Tensor) -> Tensor:
    """Apply to each image the operation that was chosen for it.

    Args:
        images: (n, c, h, w), uint8, or float in [0, 1], which is rounded to 256 levels.
        choice: index of each image's operation, int64 (n,); none if negative.
        strength: (n,), in the unit of the operation.
    """
    result = images.clone() if images.dtype == torch.uint8 else images.mul(255).round().to(torch.uint8)
    choice, strength = choice.cpu(), strength.to(images.device, torch.float32)  # one synchronisation, not one each
    for number, operation in enumerate(operations):
        index = (choice == number).nonzero()[:, 0].to(images.device)
        if len(index):
            result[index] = operation(result[index], strength[index])
    return result if images.dtype == torch.uint8 else result.to(images.dtype) / 255


def take(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Gather every pixel of the result from the pixel (row, column) of the same image; black from outside.

    Args:
        images: (n, c, h, w).
        rows, columns: int64, broadcast to (n, h, w).
    """
    n, c, h, w = images.shape
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    position = torch.where(inside, rows * w + columns, 0).reshape(n, 1, h * w)
    found = images.flatten(2).gather(2, position.expand(n, c, h * w)).reshape(n, c, h, w)
    return found.masked_fill_(~inside[:, None], 0)


def in_box(top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: tuple[int, int]) -> Tensor:
    """Which pixels of an image of this size are in the box of each sample, given in pixels, int64 (n,); (n, h, w)."""
    row, column = (torch.arange(side, device=top.device) for side in size)
    rows = (row >= top[:, None]) & (row < (top + height)[:, None])
    columns = (column >= left[:, None]) & (column < (left + width)[:, None])
    return rows[:, :, None] & columns[:, None]


def _affine(images: Tensor, x: tuple[Tensor | float, ...], y: tuple[Tensor | float, ...]) -> Tensor:
    """Fetch each pixel (x, y), seen from the centre, from (x0 x + x1 y + x2, y0 x + y1 y + y2), the nearest pixel."""
    h, w = images.shape[2:]
    row = torch.arange(h, device=images.device)[:, None] - (h - 1) / 2
    column = torch.arange(w, device=images.device) - (w - 1) / 2
    x, y = (tuple(torch.as_tensor(v, device=images.device).reshape(-1, 1, 1) for v in axis) for axis in (x, y))
    columns = x[0] * column + x[1] * row + x[2] + (w - 1) / 2
    rows = y[0] * column + y[1] * row + y[2] + (h - 1) / 2
    return take(images, rows.round().long(), columns.round().long())


def shear_x(images: Tensor, slope: Tensor) -> Tensor:
    """Shift each row by ``slope`` times its distance from the centre."""
    return _affine(images, (1, slope, 0), (0, 1, 0))


def shear_y(images: Tensor, slope: Tensor) -> Tensor:
    """Shift each column by ``slope`` times its distance from the centre."""
    return _affine(images, (1, 0, 0), (slope, 1, 0))


def shear_y_from_corner(images: Tensor, slope: Tensor) -> Tensor:
    """Shift each column by ``slope`` times its distance from the left side."""
    return _affine(images, (1, 0, 0), (slope, 1, slope * images.shape[3] / 2))


def translate_x(images: Tensor, share: Tensor) -> Tensor:
    """Shift to the right by this share of the width, in whole pixels."""
    return _affine(images, (1, 0, -(share * images.shape[3]).trunc()), (0, 1, 0))


def translate_y(images: Tensor, share: Tensor) -> Tensor:
    """Shift downwards by this share of the height, in whole pixels."""
    return _affine(images, (1, 0, 0), (0, 1, -(share * images.shape[2]).trunc()))


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate counter-clockwise about the centre."""
    cos, sin = degrees.deg2rad().cos(), degrees.deg2rad().sin()
    return _affine(images, (cos, -sin, 0), (sin, cos, 0))


def _blend(images: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    """``other`` moved by ``factor`` towards the images and beyond, truncated to whole numbers."""
    factor = factor[:, None, None, None]
    blend: Tensor = images * factor + other * (1 - factor)
    return blend.clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """Luminance of colour images, (n, 1, h, w); other images as they are."""
    if images.shape[1] != 3:
        return images.float()
    red, green, blue = images.float().split(1, 1)
    grey: Tensor = 0.2989 * red + 0.587 * green + 0.114 * blue
    return grey.floor_()


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """0 is black and 1 the image."""
    return _blend(images, 0.0, factor)


def colour(images: Tensor, factor: Tensor) -> Tensor:
    """0 is grey and 1 the image; images of other than 3 channels stay as they are."""
    return _blend(images, _grey(images), factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """0 is the mean grey and 1 the image."""
    return _blend(images, _grey(images).mean((1, 2, 3), keepdim=True), factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """0 is smoothed over 3x3 pixels, of which the middle has weight 5, and 1 the image; the border stays."""
    if min(images.shape[2:]) < 3:
        return images
    smooth = images.float()
    middle = smooth[:, :, 1:-1, 1:-1]
    middle.copy_(((9 * functional.avg_pool2d(smooth, 3, 1) + 4 * middle) / 13).round())
    return _blend(images, smooth, factor)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep this many bits of each pixel."""
    step = (2 ** (8 - bits)).int()[:, None, None, None]
    return (images.int() // step * step).to(torch.uint8)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the pixels from ``threshold`` (0 to 255) on."""
    return torch.where(images >= threshold[:, None, None, None], 255 - images, images)


def autocontrast(images: Tensor, unused: Tensor) -> Tensor:
    """Stretch each channel to the range from 0 to 255."""
    found: Tensor = transforms.autocontrast(images.flatten(0, 1)[:, None])
    return found.reshape(images.shape)


def equalize(images: Tensor, unused: Tensor) -> Tensor:
    """Equalise the histogram of each channel."""
    found: Tensor = transforms.equalize(images)
    return found


def invert(images: Tensor, unused: Tensor) -> Tensor:
    """255 minus each pixel."""
    return 255 - images
