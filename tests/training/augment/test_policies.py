"""AutoAugment, IDBH and CutMix: their tables, and how often they do what."""

import sys

import pytest
import torch
from torchvision.transforms import v2

from advdpnp.training.augment import autoaugment, cutmix
from advdpnp.training.augment import operations as op
from advdpnp.training.augment.autoaugment import _OPERATIONS, POLICY, strength
from advdpnp.training.augment.idbh import colour_or_shape, crop_shift_flip, erase

NAMES = {
    op.shear_y_from_corner: "ShearY",
    op.translate_x: "TranslateX",
    op.translate_y: "TranslateY",
    op.colour: "Color",
    op.autocontrast: "AutoContrast",
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_policy_of_autoaugment_is_torchvisions() -> None:
    oracle = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    ours = [[(NAMES.get(f, f.__name__.title()), p) for f, p, _ in steps] for steps in POLICY]
    assert ours == [[(name, p) for name, p, _ in steps] for steps in oracle._policies]
    for steps, theirs in zip(POLICY, oracle._policies, strict=True):
        for (operation, _, magnitude), (name, _, theirs_magnitude) in zip(steps, theirs, strict=True):
            magnitudes, signed = oracle._AUGMENTATION_SPACE[name]
            if theirs_magnitude is None:
                continue
            base, size = strength(operation, magnitude)
            value = float(magnitudes(10, 1, 1)[theirs_magnitude])
            if signed:
                assert (base, size) == (base, pytest.approx(value))
                assert base == (1 if name in ("Brightness", "Color", "Contrast", "Sharpness") else 0)
            else:
                assert size == 0
                assert base == pytest.approx(255 * value if name == "Solarize" else value)


def test_autoaugment_applies_each_step_as_often_as_the_policy_says(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def count(images, operations, choice, strength):
        seen.append(torch.bincount(choice + 1, minlength=len(operations) + 1) / len(choice))
        return images

    monkeypatch.setattr(op, "apply", count)
    autoaugment(torch.zeros(20_000, 1, 1, 1, dtype=torch.uint8), generator())
    for step, shares in enumerate(seen):
        expected = [0.0] * len(_OPERATIONS)
        for steps in POLICY:
            operation, probability, _ = steps[step]
            expected[_OPERATIONS.index(operation)] += probability / 25
        assert shares[1:].tolist() == pytest.approx(expected, abs=0.015)


def test_crop_shift_keeps_a_window_and_puts_it_anywhere() -> None:
    """In an image of one value, black rows and columns are those cut off: together 0 to 10, each count as often."""
    x = torch.full((6000, 1, 32, 32), 7, dtype=torch.uint8)
    y = crop_shift_flip(x, generator())[:, 0] > 0
    rows, columns = y.any(2).sum(1), y.any(1).sum(1)
    assert torch.equal(y.sum((1, 2)), rows * columns)
    cut = 64 - rows - columns
    shares = torch.bincount(cut, minlength=11) / len(x)
    assert len(shares) == 11
    assert shares.tolist() == pytest.approx([1 / 11] * 11, abs=0.02)
    assert float((32 - rows).float().mean()) == pytest.approx(2.5, abs=0.1)  # half of the 5 pixels of the mean
    assert float(y[:, 0].any(1).float().mean()) == pytest.approx(float(y[:, -1].any(1).float().mean()), abs=0.03)


def test_crop_shift_takes_each_pixel_from_its_image_and_mirrors_half() -> None:
    x = torch.arange(1, 33, dtype=torch.uint8).expand(500, 1, 32, 32)
    y = crop_shift_flip(x, generator())[:, 0, 16].int()
    steps = y[:, 12:20].diff(dim=1)
    assert (steps.abs() == 1).all()
    assert (steps == steps[:, :1]).all()
    assert 0.4 < float((steps[:, 0] < 0).float().mean()) < 0.6


@pytest.mark.parametrize(("size", "largest"), [(8, 2), (28, 8), (64, 20)])
def test_crop_shift_grows_with_the_image(size: int, largest: int) -> None:
    y = crop_shift_flip(torch.ones((2000, 1, size, size), dtype=torch.uint8), generator())[:, 0]
    assert int((2 * size - y.any(2).sum(1) - y.any(1).sum(1)).max()) == largest


def test_colours_and_shapes_are_in_the_published_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(op, "apply", lambda images, operations, *numbers: drawn.append((operations, *numbers)))
    colour_or_shape(torch.zeros(20_000, 1, 1, 1, dtype=torch.uint8), generator())
    operations, choice, strengths = drawn[0]
    names = [operations[number].__name__ for number in choice.tolist()]
    ranges = {
        "colour": (0.1, 1.9),
        "brightness": (0.5, 1.9),
        "contrast": (0.5, 1.9),
        "sharpness": (0.1, 1.9),
        "autocontrast": (0, 0),
        "equalize": (0, 0),
        "shear_x": (0.05, 0.15),
        "shear_y": (0.05, 0.15),
        "rotate": (1, 10),
    }
    for name, (low, high) in ranges.items():
        values = strengths[torch.tensor([other == name for other in names])]
        assert len(values) / len(names) == pytest.approx(1 / 16 if name.startswith("shear") else 1 / 8, abs=0.015)
        sizes = values.abs()
        assert (sizes >= low).all()
        assert (sizes <= high).all()
        assert float(sizes.mean()) == pytest.approx((low + high) / 2, rel=0.05)
        negative = 0.5 if name in ("rotate", "shear_x", "shear_y") else 0
        assert float((values < 0).float().mean()) == pytest.approx(negative, abs=0.05)


def test_half_of_the_images_lose_a_box() -> None:
    y = erase(torch.ones((8000, 1, 40, 40)), generator())[:, 0] == 0
    erased = y.any(2).any(1)
    assert float(erased.float().mean()) == pytest.approx(0.5, abs=0.03)
    heights, widths = y.any(2).sum(1), y.any(1).sum(1)
    assert torch.equal(y.sum((1, 2)), heights * widths)
    areas = (y.sum((1, 2))[erased] / 1600).sort().values
    assert 0.01 < areas[0] < 0.04
    assert 0.28 < areas[-1] < 0.35
    assert float(areas.mean()) == pytest.approx(0.175, abs=0.01)
    ratios = (heights / widths)[erased].log()
    assert float(ratios.mean()) == pytest.approx(0.0, abs=0.05)


def test_the_label_of_cutmix_is_the_other_images_as_often_as_its_share_of_the_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the crop every pixel tells whose it is."""
    module = sys.modules["advdpnp.training.augment.cutmix"]
    monkeypatch.setattr(module, "crop_flip", lambda images, generator: images)
    n = 4096
    values = torch.arange(n)
    x = values[:, None, None, None].expand(n, 1, 8, 8).double()
    shares, others = [], []
    for seed in range(6):
        mixed, label = cutmix(x, values, generator(seed))
        foreign = mixed[:, 0] != values[:, None, None]
        shares.append(foreign.double().mean((1, 2)))
        others.append((label != values).double())
        changed = label != values
        assert (mixed[changed, 0] == label[changed, None, None]).flatten(1).any(1).all()  # the box holds its owner
        heights, widths = foreign.any(2).sum(1), foreign.any(1).sum(1)
        assert torch.equal(foreign.sum((1, 2)), heights * widths)
    share, other = torch.cat(shares), torch.cat(others)
    assert float((other - share).mean()) == pytest.approx(0, abs=0.01)  # standard deviation 0.0015
    small, large = share < 0.3, share > 0.6  # unbiased for each size, not only in the mean
    assert float((other - share)[small].mean()) == pytest.approx(0, abs=0.01)
    assert float((other - share)[large].mean()) == pytest.approx(0, abs=0.06)
