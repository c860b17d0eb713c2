"""IDBH, "improved diversity and balanced hardness", for adversarial training.

Paper: Li and Spratling, "Data Augmentation Alone Can Improve Adversarial Training", ICLR 2023. This is our own code
after the paper and its public code, whose version "cifar10-weak" it follows: mirror image, CropShift, one change of
colour or shape, and random erasing of half of the images. ("cifar10-strong" erases a part of every image.) Choices of
this project: the size of CropShift grows with the image, angles need not be whole degrees, and boxes to erase that are
higher or wider than the image are cut instead of drawn again.
"""

import math

import torch
from torch import Tensor

from advdpnp.training.augment import operations as op

_LARGEST_CROP = 10 / 32  # of the shorter side; 10 pixels of CIFAR-10

# Equally probable; each operation is there twice, shear once along each axis. The strength is uniform between the
# numbers, and shapes change in either direction.
_COLOURS: tuple[tuple[op.Operation, float, float], ...] = (
    (op.colour, 0.1, 1.9),
    (op.brightness, 0.5, 1.9),
    (op.contrast, 0.5, 1.9),
    (op.sharpness, 0.1, 1.9),
    (op.autocontrast, 0, 0),
    (op.equalize, 0, 0),
)
_SHAPES: tuple[tuple[op.Operation, float, float], ...] = (
    (op.shear_x, 0.05, 0.15),
    (op.shear_y, 0.05, 0.15),
    (op.rotate, 1, 10),
    (op.rotate, 1, 10),
)
_OPERATIONS = (*_COLOURS, *_COLOURS, *_SHAPES)
_RANGES = torch.tensor([(low, high) for _, low, high in _OPERATIONS], dtype=torch.float64)

_ERASED = 0.5  # share of the images
_AREA, _RATIO = (0.02, 0.33), (0.3, 3.3)  # of the erased box, relative to the image and height to width


def idbh(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images, then apply CropShift, one change of colour or shape, and random erasing."""
    return erase(colour_or_shape(crop_shift_flip(images, generator), generator), generator)


def crop_shift_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Cut up to 10 of 32 pixels off, in all, put the rest somewhere on black, and mirror half of the images.

    How many pixels are cut off, how they are divided between the axes and between both ends of an axis, and where the
    rest is put are uniform.
    """
    n, _, h, w = images.shape
    largest = int(_LARGEST_CROP * min(h, w))
    draws = op.uniform(n, 7, generator).to(images.device)[:, :, None]
    strength = (draws[0] * (largest + 1)).long()
    cut_rows = (draws[1] * (strength + 1)).long()

    def source(side: int, cut: Tensor, start: Tensor, place: Tensor) -> Tensor:
        """The row or column that comes to each place of the result, (n, side); -1 for black."""
        start, place = ((draw * (cut + 1)).long() for draw in (start, place))
        position = torch.arange(side, device=images.device) - place
        return torch.where((position >= 0) & (position < side - cut), position + start, -1)

    rows = source(h, cut_rows, draws[2], draws[3])
    columns = source(w, strength - cut_rows, draws[4], draws[5])
    columns = torch.where(draws[6] < 0.5, columns.flip(1), columns)
    return op.take(images, rows[:, :, None], columns[:, None])


def colour_or_shape(images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply one random operation of random strength."""
    kind, share, sign = op.uniform(len(images), 3, generator).cpu().unbind()
    choice = (kind * len(_OPERATIONS)).long()
    low, high = _RANGES[choice].unbind(1)
    strength = low + share * (high - low)
    mirrored = (choice >= 2 * len(_COLOURS)) & (sign < 0.5)
    return op.apply(images, [f for f, *_ in _OPERATIONS], choice, torch.where(mirrored, -strength, strength))


def erase(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blacken a box in half of the images (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020)."""
    h, w = images.shape[2:]
    decides, area, ratio, down, right = op.uniform(len(images), 5, generator).to(images.device).unbind()
    area = (_AREA[0] + area * (_AREA[1] - _AREA[0])) * h * w
    ratio = torch.exp(math.log(_RATIO[0]) + ratio * math.log(_RATIO[1] / _RATIO[0]))
    height, width = (area * ratio).sqrt().round().clamp_max(h), (area / ratio).sqrt().round().clamp_max(w)
    top, left = down * (h - height + 1), right * (w - width + 1)
    box = op.in_box(top.long(), left.long(), height.long(), width.long(), (h, w)) & (decides < _ERASED)[:, None, None]
    return images.masked_fill(box[:, None], 0)
