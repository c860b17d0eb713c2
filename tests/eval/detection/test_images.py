"""Outliers by name, in the size and channels of the test images."""

import numpy as np
import pytest
import torch
from PIL import Image

from advdpnp.base.errors import AdvdpnpError
from advdpnp.corruption.apply import corrupt
from advdpnp.datasets import load_dataset
from advdpnp.eval.detection.images import converted, outlier_set, outlier_sets


def test_images_that_fit_stay_as_they_are():
    images = torch.randint(0, 256, (3, 3, 9, 7), dtype=torch.uint8)
    assert converted(images, 3, (9, 7)) is images


def test_gray_is_the_luma_and_rgb_repeats_gray():
    rgb = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    gray = converted(rgb, 1, (8, 8))
    pillow = [np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")) for image in rgb]
    assert int((gray[:, 0].int() - torch.from_numpy(np.stack(pillow)).int()).abs().max()) <= 1
    again = converted(gray, 3, (8, 8))
    assert again.shape == (5, 3, 8, 8)
    assert bool((again == gray).all())


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (5, 11)])
def test_images_are_resized_smoothly(size):
    flat = torch.full((2, 3, 16, 12), 200, dtype=torch.uint8)
    assert bool((converted(flat, 3, size) == 200).all())
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(1, 1, 32, 32)
    assert float(converted(ramp, 1, size).float().mean()) == pytest.approx(124, abs=2)


def test_noise_is_seeded_and_as_described(quadrants):
    uniform = outlier_set("noise:uniform", quadrants, limit=None, seed=0).images.float()
    assert uniform.shape == quadrants.test.images.shape
    assert float(uniform.mean()) == pytest.approx(127.5, abs=4)
    assert float(uniform.std()) == pytest.approx(255 / 12**0.5, abs=3)
    normal = outlier_set("noise:gaussian", quadrants, limit=20, seed=0).images.float()
    assert len(normal) == 20
    assert float((normal == 255).float().mean()) == pytest.approx(0.309, abs=0.03)
    again, other = (outlier_set("noise:gaussian", quadrants, limit=20, seed=seed).images for seed in (0, 1))
    assert torch.equal(again.float(), normal)
    assert not torch.equal(again, other)


def test_corruptions_are_those_of_the_test_images(quadrants):
    made = outlier_set("corruption:gaussian_noise-4", quadrants, limit=6, seed=2)
    assert torch.equal(made.images, corrupt(quadrants.test.images[:6], "gaussian_noise", 4, seed=2))


@pytest.mark.parametrize(("stored", "wanted"), [(1, 3), (3, 1)])
def test_data_sets_take_the_shape_of_the_normal_one(stored, wanted, save_npz, quadrants):
    path = save_npz(40, stored)
    data = load_dataset("digits", train=False)
    made = outlier_set(f"npz:{path}", data, limit=7, seed=0)
    assert (made.name, made.images.shape) == ("npz-own", (7, 1, *data.image_size))
    assert converted(made.images, wanted, (4, 4)).shape == (7, wanted, 4, 4)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("cifar11", "did you mean .*cifar10"),
        ("noise:unifrom", "did you mean uniform"),
        ("noise:", "choose uniform or gaussian"),
        ("corruption:gaussian_noise", "corruption:gaussian_noise-5"),
        ("corruption:gaussian_noise-6", "severity from 1 to 5"),
        ("corruption:gausian_noise-5", "did you mean gaussian_noise"),
        ("npz:missing.npz", "missing.npz"),
        ("digits", "the very test images"),
    ],
)
def test_wrong_names_are_one_sentence(spec, said):
    with pytest.raises(AdvdpnpError, match=said):
        outlier_set(spec, load_dataset("digits", train=False), limit=5, seed=0)


def test_each_set_comes_once(quadrants):
    specs = ["noise:uniform", "noise:gaussian", "noise:uniform"]
    assert [each.name for each in outlier_sets(specs, quadrants, limit=3, seed=0)] == specs[:2]
