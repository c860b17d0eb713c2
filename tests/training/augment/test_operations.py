"""Batched operations with one strength per image, against torchvision's, called image by image."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from advdpnp.training.augment import operations as op

FACTORS = (0.1, 0.5, 1.0, 1.3, 1.9)
SLOPES = (-0.3, -0.05, 0.1, 0.27)


def shear(slope: float, axis: int, centre: list[float] | None = None) -> Callable[[Tensor], Tensor]:
    angles = [0.0, 0.0]
    angles[axis] = math.degrees(math.atan(slope))
    return lambda image: tv.affine(image, 0.0, [0, 0], 1.0, angles, center=centre)


def shift(x: int, y: int) -> Callable[[Tensor], Tensor]:
    return lambda image: tv.affine(image, 0.0, [x, y], 1.0, [0.0, 0.0])


CASES: list[tuple[op.Operation, tuple[float, ...], Callable[[float, int, int], Callable[[Tensor], Tensor]]]] = [
    (op.shear_x, SLOPES, lambda s, h, w: shear(s, 0)),
    (op.shear_y, SLOPES, lambda s, h, w: shear(s, 1)),
    (op.shear_y_from_corner, SLOPES, lambda s, h, w: shear(s, 1, [0, 0])),
    (op.translate_x, (-0.453, -0.1, 0.2, 0.403), lambda s, h, w: shift(int(s * w), 0)),
    (op.translate_y, (-0.453, -0.1, 0.2, 0.403), lambda s, h, w: shift(0, int(s * h))),
    (op.rotate, (-30.0, -6.7, 3.0, 10.0), lambda s, h, w: lambda image: tv.rotate(image, s)),
    (op.brightness, FACTORS, lambda s, h, w: lambda image: tv.adjust_brightness(image, s)),
    (op.colour, FACTORS, lambda s, h, w: lambda image: tv.adjust_saturation(image, s)),
    (op.contrast, FACTORS, lambda s, h, w: lambda image: tv.adjust_contrast(image, s)),
    (op.sharpness, FACTORS, lambda s, h, w: lambda image: tv.adjust_sharpness(image, s)),
    (op.posterize, (4, 5, 8), lambda s, h, w: lambda image: tv.posterize(image, int(s))),
    (op.solarize, (0.0, 100.5, 198.3, 255.0), lambda s, h, w: lambda image: tv.solarize(image, s)),
    (op.autocontrast, (0.0,), lambda s, h, w: tv.autocontrast),
    (op.equalize, (0.0,), lambda s, h, w: tv.equalize),
    (op.invert, (0.0,), lambda s, h, w: tv.invert),
]


def pictures(n: int, channels: int, h: int, w: int) -> Tensor:
    """Smooth images of different contrast, as photographs are."""
    coarse = torch.rand(n, channels, 4, 4, generator=torch.Generator().manual_seed(1))
    spread = torch.linspace(0.2, 1, n)[:, None, None, None]
    fine = torch.nn.functional.interpolate(coarse, (h, w), mode="bicubic").clamp(0, 1)
    return (255 * (0.5 + spread * (fine - 0.5))).round().to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("h", "w"), [(32, 32), (9, 14), (96, 64)])
@pytest.mark.parametrize(("operation", "strengths", "oracle"), CASES, ids=[case[0].__name__ for case in CASES])
def test_it_does_what_torchvision_does(operation, strengths, oracle, h: int, w: int, channels: int) -> None:
    x = pictures(len(strengths), channels, h, w)
    found = operation(x, torch.tensor(strengths, dtype=torch.float32)).int()
    expected = torch.stack([oracle(s, h, w)(image) for s, image in zip(strengths, x, strict=True)]).int()
    # Blends may round otherwise, by one level; where a nearest pixel is a tie, either may be taken.
    assert ((found - expected).abs() <= 1).float().mean() > 0.98
    assert found.float().sub(expected).abs().mean() < 1.5


def test_each_image_gets_the_operation_that_was_chosen_for_it() -> None:
    x = pictures(5, 3, 8, 8)
    choice, strength = torch.tensor([1, -1, 0, 1, -1]), torch.tensor([0.5, 9, 9, 1.5, 9])
    found = op.apply(x, (op.invert, op.brightness), choice, strength)
    assert torch.equal(found[1], x[1])
    assert torch.equal(found[4], x[4])
    assert torch.equal(found[2], 255 - x[2])
    assert torch.equal(found[[0, 3]], op.brightness(x[[0, 3]], torch.tensor([0.5, 1.5])))


def test_outside_is_black() -> None:
    x = torch.full((1, 1, 3, 3), 9, dtype=torch.uint8)
    moved = op.take(x, torch.tensor([-1, 0, 3]).reshape(1, 3, 1), torch.arange(3).reshape(1, 1, 3))
    assert moved.tolist() == [[[[0] * 3, [9] * 3, [0] * 3]]]


def test_a_box_holds_its_pixels_and_no_others() -> None:
    boxes = op.in_box(*torch.tensor([[1, 0], [2, 0], [3, 0], [2, 5]]), (5, 6))
    expected = torch.zeros(2, 5, 6, dtype=torch.bool)
    expected[0, 1:4, 2:4] = True
    assert torch.equal(boxes, expected)
