"""What all augmentations share, and crops against a plain loop."""

import pytest
import torch
from torch import Tensor

from advdpnp.base.errors import AdvdpnpError
from advdpnp.training.augment import AUGMENTATIONS
from advdpnp.training.augment import augment as augment_pair
from advdpnp.training.augment.crop import PADDING
from advdpnp.training.recipe import Recipe

SHAPES = [(7, 3, 32, 32), (5, 1, 28, 28), (4, 3, 9, 14), (1, 2, 5, 3), (0, 3, 8, 8), (40, 3, 8, 8), (2, 3, 224, 224)]
MOVING = ["crop", "crop-flip"]
RANDOM = [how for how in AUGMENTATIONS if how != "none"]


def augment(x: Tensor, how: str, draws: torch.Generator) -> Tensor:
    return augment_pair(x, torch.zeros(len(x), dtype=torch.int64), how, draws)[0]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Tensor:
    x = torch.randint(1, 256, shape, generator=generator(99))
    return x.to(dtype) if dtype == torch.uint8 else x.to(dtype) / 255


def moved(image: Tensor, down: int, right: int, mirror: bool) -> Tensor:
    """One image, pixel by pixel: the cut that starts ``down`` and ``right`` in the padded image."""
    out = torch.zeros_like(image)
    _, h, w = image.shape
    for i in range(h):
        for j in range(w):
            y, x = i + down - PADDING, (w - 1 - j if mirror else j) + right - PADDING
            if 0 <= y < h and 0 <= x < w:
                out[:, i, j] = image[:, y, x]
    return out


@pytest.mark.parametrize("how", AUGMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_shape_and_type_stay(how: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = images(shape, dtype)
    before = x.clone()
    labels = torch.arange(len(x))
    y, new = augment_pair(x, labels, how, generator())
    assert (y.shape, y.dtype, y.device) == (x.shape, x.dtype, x.device)
    assert (new.shape, new.dtype) == (labels.shape, labels.dtype)
    assert torch.equal(x, before)
    assert torch.equal(labels, torch.arange(len(x)))
    assert not dtype.is_floating_point or ((y >= 0) & (y <= 1)).all()


def test_recipes_know_every_name() -> None:
    for how in AUGMENTATIONS:
        assert Recipe(method={"name": "ce"}, augmentation=how).augmentation == how


@pytest.mark.parametrize("how", MOVING)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", SHAPES[:4])
def test_it_equals_a_plain_loop(how: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, n = images(shape, dtype), shape[0]
    y = augment(x, how, generator(3))
    replay = generator(3)
    down = torch.randint(2 * PADDING + 1, (n, 1), generator=replay)
    right = torch.randint(2 * PADDING + 1, (n, 1), generator=replay)
    mirror = torch.randint(2, (n, 1), generator=replay) if how == "crop-flip" else torch.zeros(n, 1)
    for i in range(n):
        assert torch.equal(y[i], moved(x[i], int(down[i]), int(right[i]), bool(mirror[i])))


@pytest.mark.parametrize("how", MOVING)
def test_every_sample_draws_its_own(how: str) -> None:
    """Of 2,000 copies of one image, every position (and its mirror image) comes up about equally often."""
    x = images((1, 1, 6, 6)).expand(2000, 1, 6, 6)
    y = augment(x, how, generator())
    distinct, counts = y.flatten(1).unique(dim=0, return_counts=True)
    kinds = (2 * PADDING + 1) ** 2 * (2 if how == "crop-flip" else 1)
    assert len(distinct) == kinds
    assert counts.max() < 2000 / kinds * 3


def test_half_are_mirrored() -> None:
    x = torch.arange(1, 41, dtype=torch.uint8).reshape(1, 1, 1, 40).expand(2000, 1, 1, 40)
    y = augment(x, "crop-flip", generator())[:, 0, 0, 18:22].long()
    y = y[y.any(1)]  # the row itself can be cropped away: the image is one pixel high
    assert 0.4 < float((y[:, 0] > y[:, 1]).float().mean()) < 0.6


def test_crop_never_mirrors() -> None:
    x = torch.arange(1, 33, dtype=torch.uint8).expand(50, 1, 32, 32)
    middle = augment(x, "crop", generator())[:, 0, 16, 10:20].long()
    assert (middle.diff(dim=1) == 1).all()


def test_what_comes_in_from_outside_is_black() -> None:
    y = augment(torch.full((500, 1, 8, 8), 200, dtype=torch.uint8), "crop", generator())
    assert set(y.unique().tolist()) == {0, 200}
    assert y[:, :, PADDING - 1, PADDING - 1].float().mean() > y[:, :, 0, 0].float().mean()
    assert (y != 0).flatten(1).any(1).all()


@pytest.mark.parametrize("how", RANDOM)
def test_the_generator_alone_decides(how: str) -> None:
    x = images((16, 3, 32, 32))
    state = torch.random.get_rng_state()
    assert torch.equal(augment(x, how, generator(1)), augment(x, how, generator(1)))
    assert not torch.equal(augment(x, how, generator(1)), augment(x, how, generator(2)))
    draws = generator(1)
    assert not torch.equal(augment(x, how, draws), augment(x, how, draws))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("how", RANDOM)
def test_types_and_layouts_are_changed_alike(how: str) -> None:
    x = images((32, 3, 16, 16))
    expected = augment(x, how, generator())
    assert torch.equal(augment(x / 255, how, generator()), expected / 255)
    assert torch.equal(augment(x.to(memory_format=torch.channels_last), how, generator()), expected)


def test_none_changes_nothing_and_draws_nothing() -> None:
    x, draws = images((4, 3, 8, 8)), generator()
    state = draws.get_state()
    assert torch.equal(augment(x, "none", draws), x)
    assert torch.equal(draws.get_state(), state)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AdvdpnpError, match="choose one of none, crop, crop-flip"):
        augment(images((1, 1, 4, 4)), "mixup", generator())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("how", RANDOM)
def test_a_cpu_generator_gives_the_same_on_a_gpu(how: str) -> None:
    x = images((64, 3, 32, 32))
    y = augment(x.cuda(), how, generator())
    assert y.is_cuda
    same = (y.cpu() == augment(x, how, generator())).float().mean()
    assert same == 1 if how in MOVING else same > 0.98  # the blending operations may round otherwise
    own = torch.Generator("cuda").manual_seed(0)
    assert augment(x.cuda(), how, own).is_cuda
