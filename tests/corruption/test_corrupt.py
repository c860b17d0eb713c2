"""What holds for every corruption: shapes, determinism, independence of the batch, errors."""

import itertools

import numpy as np
import pytest
import torch

from advdpnp.base.errors import AdvdpnpError
from advdpnp.corruption import (
    BENCHMARK,
    CORRUPTIONS,
    EXTRA,
    GROUPS,
    SEVERITIES,
    choose_types,
    corrupt,
    declare,
    find_corruption,
)  # fmt: skip

NAMES = BENCHMARK + EXTRA
DETERMINISTIC = (
    "brightness", "contrast", "defocus_blur", "gaussian_blur", "jpeg_compression", "pixelate", "saturate", "zoom_blur",
)  # fmt: skip
UNEVEN = ("saturate", "spatter", "elastic_transform")  # severity does not raise their distance; published as such


def mean_distance(before, after):
    return (before.float() - after.float()).abs().mean().item() / 255


def test_the_benchmark_has_fifteen_types_in_four_groups_and_four_extra_ones():
    assert len(BENCHMARK) == 15
    assert len(EXTRA) == 4
    assert tuple(name for group in GROUPS.values() for name in group) == BENCHMARK
    assert set(NAMES) == set(CORRUPTIONS.names())
    for name in NAMES:
        corruption = find_corruption(name)
        assert corruption.group in GROUPS
        assert name not in BENCHMARK or name in GROUPS[corruption.group]
    assert all(entry.description and entry.reference for entry in CORRUPTIONS)


@pytest.mark.parametrize("size", [8, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_images_keep_shape_and_type_and_are_changed(name, channels, size, make_images):
    images = make_images(3, channels, size)
    untouched = images.clone()
    for severity in (1, 5):
        result = corrupt(images, name, severity)
        assert result.dtype == torch.uint8
        assert result.shape == images.shape
        assert result.is_contiguous()
    assert torch.equal(images, untouched)
    nothing_to_do = (name == "saturate" and channels == 1) or (name == "defocus_blur" and size == 8)
    if not nothing_to_do:
        assert not torch.equal(result, images)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_large_images(name, make_images):
    images = make_images(2, 3, 224)
    result = corrupt(images, name, 5)
    assert result.shape == images.shape
    assert 0.005 < mean_distance(images, result) < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_sides_may_differ(name, make_images):
    images = make_images(2, 3, 48)[:, :, :33]
    assert corrupt(images, name, 3).shape == (2, 3, 33, 48)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_alone_in_a_batch_and_in_another_order_gives_the_same_bytes(name, natural):
    sample = torch.arange(100) * 7 + 3
    for severity in SEVERITIES:
        together = corrupt(natural, name, severity, seed=5, sample=sample)
        assert torch.equal(together, corrupt(natural, name, severity, seed=5, sample=sample))
        order = torch.tensor([90, 3, 41])
        assert torch.equal(corrupt(natural[order], name, severity, seed=5, sample=sample[order]), together[order])
        alone = corrupt(natural[17:18], name, severity, seed=5, sample=sample[17:18])
        assert torch.equal(alone, together[17:18])


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(DETERMINISTIC)))
def test_random_types_depend_on_seed_severity_and_sample(name, natural):
    images = natural[20:21].expand(2, -1, -1, -1)
    first = corrupt(images, name, 3)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, corrupt(images, name, 3, seed=1))
    assert not torch.equal(first, corrupt(images, name, 4))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_others_depend_on_nothing_but_the_image(name, natural):
    sample = torch.arange(5) + 100
    assert torch.equal(corrupt(natural[:5], name, 3), corrupt(natural[:5], name, 3, seed=9, sample=sample))


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(UNEVEN)))
def test_severity_raises_the_distance_to_the_clean_image(name, natural):
    distances = [mean_distance(natural, corrupt(natural, name, severity)) for severity in SEVERITIES]
    # Glass blur has the same exchange at severity 1 to 3 and at 4 and 5; motion blur the same sigma at 3 and 4.
    slack = 0.004 if name in ("glass_blur", "motion_blur") else 0.0
    assert all(low < high + slack for low, high in itertools.pairwise(distances)), distances
    assert distances[0] < distances[-1]


def test_the_profile_of_saturate_is_the_published_one(natural):
    published = (0.046, 0.059, 0.031, 0.079, 0.115)
    if natural[0, :, 0, 0].tolist() != [158, 112, 49]:
        pytest.skip("needs the images of CIFAR-10: set ADVDPNP_DATA")
    for severity, distance in zip(SEVERITIES, published, strict=True):
        assert mean_distance(natural, corrupt(natural, "saturate", severity)) == pytest.approx(distance, rel=0.15)


def test_larger_images_look_as_corrupted_as_small_ones():
    """The rule of scale: the same picture at 32 and at 96 pixels is changed by about the same."""
    coarse = torch.rand(40, 3, 9, 9, generator=torch.Generator().manual_seed(3))
    small, large = (
        (torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)
        for size in (32, 96)
    )
    for name in ("defocus_blur", "motion_blur", "gaussian_blur", "snow", "fog", "frost"):
        for severity in (3, 5):
            one, other = (mean_distance(x, corrupt(x, name, severity)) for x in (small, large))
            assert other == pytest.approx(one, rel=0.35), (name, severity)


def test_no_images_give_no_images():
    assert corrupt(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), "fog", 1).shape == (0, 3, 32, 32)


def test_black_and_white_images_stay_finite():
    for level in (0, 255):
        images = torch.full((2, 3, 32, 32), level, dtype=torch.uint8)
        for name in NAMES:
            assert corrupt(images, name, 5).shape == images.shape
    black = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert (corrupt(black, "brightness", 5) == 76).all()


def test_flat_grey_stays_flat_under_blur_and_resampling():
    images = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    for name in ("gaussian_blur", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform",
                 "pixelate", "contrast"):  # fmt: skip
        for severity in SEVERITIES:
            assert torch.equal(corrupt(images, name, severity), images), (name, severity)


def test_an_unknown_name_is_answered_with_the_nearest(natural):
    with pytest.raises(AdvdpnpError, match="no corruption called 'gaussian_nose'; did you mean gaussian_noise"):
        corrupt(natural, "gaussian_nose", 1)


def test_types_are_chosen_by_group_and_name():
    assert choose_types("benchmark") == BENCHMARK
    assert choose_types("all") == BENCHMARK + EXTRA
    assert choose_types(" spatter, fog,spatter ,") == ("spatter", "fog")
    assert choose_types("spatter,benchmark") == ("spatter", *BENCHMARK)
    for text in ("", " , "):
        with pytest.raises(AdvdpnpError, match="no corruption is named"):
            choose_types(text)
    with pytest.raises(AdvdpnpError, match="spater"):
        choose_types("fog,spater")


def test_types_are_chosen_by_a_list_of_names_too():
    assert choose_types(["snow", " fog"]) == ("snow", "fog")
    assert choose_types(("spatter", "benchmark")) == ("spatter", *BENCHMARK)
    with pytest.raises(AdvdpnpError, match="no corruption is named"):
        choose_types([])
    for wrong in (None, 3, ["fog", None]):
        with pytest.raises(AdvdpnpError, match="give benchmark, all, or names"):
            choose_types(wrong)


def test_a_severity_of_numpy_is_a_whole_number(natural):
    assert torch.equal(corrupt(natural[:2], "fog", np.int64(3)), corrupt(natural[:2], "fog", 3))


@pytest.mark.parametrize("severity", [0, 6, -1, 2.5, 1.0, "1", None, True])
def test_a_severity_out_of_range_is_refused(severity, natural):
    with pytest.raises(AdvdpnpError, match="whole number from 1 to 5"):
        corrupt(natural, "fog", severity)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 32, 32),
        torch.zeros(3, 32, 32, dtype=torch.uint8),
        torch.zeros(1, 4, 32, 32, dtype=torch.uint8),
        torch.zeros(1, 3, 7, 32, dtype=torch.uint8),
    ],
)
def test_other_images_are_refused_in_one_sentence(images):
    with pytest.raises(AdvdpnpError, match="corruptions"):
        corrupt(images, "fog", 1)


def test_sample_indices_must_match_the_images(natural):
    with pytest.raises(AdvdpnpError, match="100 int64 numbers"):
        corrupt(natural, "fog", 1, sample=torch.arange(99))


@pytest.fixture
def own():
    """own(operation, name): declares a corruption for one test."""
    names = []

    def add(operation, name="test-own", constants=((0,),) * 5):
        declare(name, group="digital", constants=constants, description="for a test")(operation)
        names.append(name)

    yield add
    for name in names:
        del CORRUPTIONS._entries[name]


def test_a_users_own_corruption_is_declared_like_ours(natural, own):
    own(lambda images, draw, nothing: 255 - images)
    assert torch.equal(corrupt(natural, "test-own", 2), 255 - natural)
    with pytest.raises(AdvdpnpError, match="rename one"):
        own(lambda images, draw, nothing: images)


@pytest.mark.parametrize("name", ["a/b", "", "..", "fog,snow", "two words", "all", "none", "labels", "{x}"])
def test_a_corruption_is_called_what_files_and_options_can_be(own, name):
    with pytest.raises(AdvdpnpError, match="a corruption cannot be called"):
        own(lambda images, draw, nothing: images, name)


@pytest.mark.parametrize("constants", [((0,),), (1, 2, 3, 4, 5)])
def test_constants_are_a_tuple_for_each_severity(own, constants):
    with pytest.raises(AdvdpnpError, match="must be five tuples"):
        own(lambda images, draw, nothing: images, constants=constants)


def test_a_plug_in_cannot_enter_the_mean():
    with pytest.raises(TypeError, match="benchmark"):
        declare("test-mean", group="digital", constants=((0,),) * 5, description="no", benchmark=True)


@pytest.mark.parametrize(
    ("operation", "sentence"),
    [
        (lambda images, draw, nothing: images[:, :, 1:], r"returns torch.uint8 of shape \(9, 3, 31, 32\) for"),
        (lambda images, draw, nothing: images / 255, "returns torch.float32 of shape .* must return uint8"),
        (lambda images, draw, nothing: images[0], "of the same shape"),
        (lambda images, draw, nothing: None, "returns NoneType for images"),
        (lambda images, draw, nothing: images @ nothing, "'test-own' fails: TypeError: .*; fix its code"),
        (lambda images, draw: images, "'test-own' fails: TypeError: .*; fix its code"),
    ],
)  # fmt: skip
def test_what_a_users_own_corruption_does_wrong_is_one_sentence(natural, own, operation, sentence):
    own(operation)
    with pytest.raises(AdvdpnpError, match=sentence):
        corrupt(natural[:9], "test-own", 2)


def test_an_operation_that_writes_on_its_images_leaves_the_callers_alone(natural, own):
    own(lambda images, draw, nothing: images.zero_())
    before = natural.clone()
    assert not corrupt(natural, "test-own", 1).any()
    assert torch.equal(natural, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_the_same_images_but_for_rounding(name, natural):
    here, there = corrupt(natural, name, 4), corrupt(natural.cuda(), name, 4)
    assert there.is_cuda
    assert (here != there.cpu()).float().mean() < 0.01


@pytest.mark.parametrize(("height", "width"), [(16, 128), (100, 8), (64, 224)])
def test_long_images_get_frost_too(height, width):
    images = torch.full((2, 3, height, width), 90, dtype=torch.uint8)
    frosted = corrupt(images, "frost", 3)
    assert frosted.shape == images.shape
    assert float((frosted != 90).float().mean()) > 0.5
