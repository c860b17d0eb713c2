"""Each operation against an independent plain computation with the benchmark's constants, on 32x32 images.

Random operations get the same random numbers: a recorder hands on what the operation drew. Bounds are on the mean
absolute difference in levels of 255; truncation to levels alone makes some values differ by one.
"""

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from advdpnp.base.randomness import Draw
from advdpnp.corruption import SEVERITIES, find_corruption

COUNT = 6


class Recorder:
    """Passes on the draws of a `Draw` and keeps them."""

    def __init__(self, count):
        self.draw = Draw.of(11, torch.arange(count))
        self.key = self.draw.key
        self.kept = []

    def __getattr__(self, kind):
        def pass_on(*arguments, **options):
            self.kept.append(getattr(self.draw, kind)(*arguments, **options))
            return self.kept[-1]

        return pass_on


def apply(name, severity, images):
    """The result, (n, h, w, c), and for each sample the list of its random numbers."""
    recorder = Recorder(len(images))
    result = find_corruption(name)(images, severity, recorder)
    return to_pixels(result), [[kept[i].numpy() for kept in recorder.kept] for i in range(len(images))]


def to_pixels(images):
    return images.permute(0, 2, 3, 1).numpy()


def levels(x):
    return np.uint8(np.clip(x, 0, 1) * 255 + 1e-6)


def close(result, expected, mean, largest=1):
    difference = np.abs(result.astype(int) - np.stack(expected).astype(int))
    assert difference.mean() <= mean, difference.mean()
    assert difference.max() <= largest, difference.max()


@pytest.fixture
def few(natural):
    return natural[:COUNT]


@pytest.mark.parametrize("severity", SEVERITIES)
class TestBlur:
    def test_gaussian_blur(self, severity, few):
        sigma = (0.4, 0.6, 0.7, 0.8, 1)[severity - 1]
        expected = [levels(ndimage.gaussian_filter(x / 255, (sigma, sigma, 0), mode="nearest")) for x in to_pixels(few)]
        close(apply("gaussian_blur", severity, few)[0], expected, 0.01)

    def test_defocus_blur(self, severity, few):
        radius, alias = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
        y, x = np.mgrid[-8:9, -8:9]
        disk = (x**2 + y**2 <= radius**2).astype(float)
        bell = np.exp(-0.5 * (np.arange(-1, 2) / alias) ** 2)
        soft = ndimage.correlate(disk / disk.sum(), np.outer(bell, bell) / bell.sum() ** 2)
        expected = [levels(ndimage.correlate(x / 255, soft[..., None], mode="mirror")) for x in to_pixels(few)]
        # At severity 4 one value in five lies within 0.001 of a whole level, where truncation is decided by rounding.
        close(apply("defocus_blur", severity, few)[0], expected, 0.15 if severity == 4 else 0.01)

    def test_zoom_blur(self, severity, few):
        end = (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1]
        expected = []
        for x in to_pixels(few) / 255:
            layers = [x, *(centre_zoom(x, factor) for factor in np.arange(1, end, 0.01))]
            expected.append(levels(np.mean(layers, 0)))
        close(apply("zoom_blur", severity, few)[0], expected, 0.01)

    def test_motion_blur(self, severity, few):
        radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
        result, draws = apply("motion_blur", severity, few)
        angles = [draw[0] * 90 - 45 for draw in draws]
        assert all(-45 <= angle < 45 for angle in angles)
        expected = [line_blur(x, radius, sigma, angle) for x, angle in zip(to_pixels(few), angles, strict=True)]
        close(result, expected, 0.001)

    def test_glass_blur(self, severity, few):
        sigma, _, passes = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity - 1]
        result, draws = apply("glass_blur", severity, few)
        expected = []
        for pixels, draw in zip(to_pixels(few), draws, strict=True):
            x = levels(ndimage.gaussian_filter(pixels / 255, (sigma, sigma, 0), mode="nearest"))
            for turn in range(passes):
                x = exchange_in_order(x, draw[turn] - 1, 1)
            expected.append(levels(ndimage.gaussian_filter(x / 255, (sigma, sigma, 0), mode="nearest")))
        close(result, expected, 0.02, 2)


def exchange_in_order(x, shift, reach):
    """The generator's loop over pixels, whose second assignment reads what the first has written."""
    x = x.copy()
    height, width = x.shape[:2]
    for h in range(height - reach, reach, -1):
        for w in range(width - reach, reach, -1):
            if h < height and w < width:
                dy, dx = shift[:, h, w]
                x[h, w] = x[h + dy, w + dx]
    return x


def test_exchange_over_several_pixels_follows_chains_as_the_loop_does():
    from advdpnp.corruption.functions.blur import _exchange

    images = torch.arange(2 * 20 * 24).reshape(2, 1, 20, 24) % 251
    for reach in (2, 3):
        recorder = Recorder(2)
        result = to_pixels(_exchange(images.to(torch.uint8), recorder, reach, 0))
        shift = recorder.kept[0].numpy() - reach
        expected = [exchange_in_order(x, s, reach) for x, s in zip(to_pixels(images), shift, strict=True)]
        np.testing.assert_array_equal(result, np.stack(expected))


def centre_zoom(x, factor):
    height = x.shape[0]
    crop = math.ceil(height / factor)
    top = (height - crop) // 2
    scales = (factor, factor, 1)[: x.ndim]
    large = ndimage.zoom(x[top : top + crop, top : top + crop], scales, order=1)
    trim = (large.shape[0] - height) // 2
    return large[trim : trim + height, trim : trim + height]


def line_blur(x, radius, sigma, angle):
    """Pixel by pixel along the line; x uint8 (h, w, c)."""
    length = 2 * math.ceil(radius) + 1
    weights = np.exp(-(np.arange(length) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    height, width = x.shape[:2]
    total = np.zeros(x.shape)
    for i, weight in enumerate(weights):
        dy = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        dx = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        rows = np.clip(np.arange(height) + dy, 0, height - 1)
        columns = np.clip(np.arange(width) + dx, 0, width - 1)
        total += weight * x[rows][:, columns]
    return np.uint8(total + 0.5)


@pytest.mark.parametrize("severity", SEVERITIES)
class TestWeather:
    def test_brightness(self, severity, few):
        shift = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
        expected = [in_hsv(x, lambda h, s, v: (h, s, min(v + shift, 1))) for x in to_pixels(few[:2])]
        close(apply("brightness", severity, few[:2])[0], expected, 0.05)

    def test_fog(self, severity, few):
        strength, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
        result, draws = apply("fog", severity, few)
        expected = []
        for pixels, draw in zip(to_pixels(few), draws, strict=True):
            x = pixels / 255
            veil = diamond_square(32, decay, draw)
            expected.append(levels((x + strength * veil[..., None]) * x.max() / (x.max() + strength)))
        close(result, expected, 0.01)

    def test_snow(self, severity, few):
        mean, deviation, zoom, threshold, radius, sigma, mix = (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        )[severity - 1]
        result, draws = apply("snow", severity, few)
        expected = []
        for pixels, (normal, chance) in zip(to_pixels(few), draws, strict=True):
            layer = centre_zoom(normal[0].astype(float) * deviation + mean, zoom)
            layer[layer < threshold] = 0
            layer = line_blur(levels(layer)[..., None], radius, sigma, chance * 90 - 135) / 255
            x = pixels / 255
            grey = (x @ (0.299, 0.587, 0.114))[..., None]
            white = mix * x + (1 - mix) * np.maximum(x, grey * 1.5 + 0.5)
            expected.append(levels(white + layer + np.rot90(layer, 2)))
        close(result, expected, 0.05, 2)

    def test_frost_is_the_weighted_sum_with_a_crop(self, severity, few):
        from advdpnp.corruption.operations.textures import frost_textures

        image_weight, frost_weight = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
        result, draws = apply("frost", severity, few)
        textures = frost_textures(1.0).permute(0, 2, 3, 1).numpy()
        expected = [
            levels(image_weight * (x / 255) + frost_weight * textures[kind][top : top + 32, left : left + 32])
            for x, (kind, top, left) in zip(to_pixels(few), draws, strict=True)
        ]
        close(result, expected, 0.01)

    def test_spatter(self, severity, few):
        mean, deviation, sigma, threshold, strength, mud = (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        )[severity - 1]
        result, draws = apply("spatter", severity, few)
        for i, (pixels, (normal,)) in enumerate(zip(to_pixels(few), draws, strict=True)):
            layer = ndimage.gaussian_filter(normal[0].astype(float) * deviation + mean, sigma, mode="nearest")
            x = pixels / 255
            if mud:
                cover = ndimage.gaussian_filter((layer > threshold).astype(float), strength, mode="nearest")[..., None]
                cover[cover < 0.8] = 0
                expected = levels(x * (1 - cover) + cover * np.array((63, 42, 20)) / 255)
                close(result[i : i + 1], [expected], 0.02)
            else:
                dry = layer < threshold - 1e-4
                np.testing.assert_array_equal(result[i][dry], pixels[dry])
                wetter = result[i].astype(int) - pixels
                assert wetter.min() >= 0
                assert wetter.max() <= math.ceil(238 * strength)
                assert (wetter[~dry] > 0).mean() > 0.1


def diamond_square(side, decay, draws):
    """The height map, square by square; draws[level] holds the uniform numbers of a level, for its three kinds."""
    heights = np.zeros((side, side))
    step, spread = side, 100.0
    for wobble in draws:
        half, cells = step // 2, side // step

        def at(y, x):
            return heights[y % side, x % side]

        for kind, (dy, dx) in enumerate(((half, half), (0, half), (half, 0))):
            for i in range(cells):
                for j in range(cells):
                    y, x = i * step + dy, j * step + dx
                    around = (
                        [at(y - half, x - half), at(y - half, x + half), at(y + half, x - half), at(y + half, x + half)]
                        if kind == 0
                        else [at(y - half, x), at(y + half, x), at(y, x - half), at(y, x + half)]
                    )
                    heights[y, x] = sum(around) / 4 + spread**2 * (2 * wobble[kind, i, j] - 1)
        step, spread = half, spread / decay
    heights -= heights.min()
    return heights / heights.max()


def in_hsv(pixels, change):
    """Change hue, saturation and value of each pixel of uint8 (h, w, 3)."""
    result = np.empty(pixels.shape)
    for place in np.ndindex(pixels.shape[:2]):
        result[place] = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*(pixels[place] / 255))))
    return levels(result)


@pytest.mark.parametrize("severity", SEVERITIES)
class TestDigital:
    def test_contrast(self, severity, few):
        factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
        expected = []
        for x in to_pixels(few) / 255:
            mean = x.mean((0, 1))
            expected.append(levels((x - mean) * factor + mean))
        close(apply("contrast", severity, few)[0], expected, 0.01)

    def test_saturate(self, severity, few):
        scale, shift = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
        expected = [in_hsv(x, lambda h, s, v: (h, min(max(s * scale + shift, 0), 1), v)) for x in to_pixels(few[:2])]
        close(apply("saturate", severity, few[:2])[0], expected, 0.12)

    def test_pixelate(self, severity, few):
        side = int(32 * (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1])
        box = Image.Resampling.BOX
        expected = [
            np.asarray(Image.fromarray(x).resize((side, side), box).resize((32, 32), box)) for x in to_pixels(few)
        ]
        np.testing.assert_array_equal(apply("pixelate", severity, few)[0], np.stack(expected))

    def test_jpeg_compression(self, severity, few):
        expected = []
        for x in to_pixels(few):
            buffer = io.BytesIO()
            Image.fromarray(x).save(buffer, "JPEG", quality=(80, 65, 58, 50, 40)[severity - 1])
            expected.append(np.asarray(Image.open(buffer)))
        np.testing.assert_array_equal(apply("jpeg_compression", severity, few)[0], np.stack(expected))

    def test_elastic_transform(self, severity, few):
        alpha, sigma, reach = (
            32 * np.array(((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)))
        )[severity - 1]
        result, draws = apply("elastic_transform", severity, few)
        expected = []
        y, x = np.mgrid[:32, :32].astype(float)
        for pixels, draw in zip(to_pixels(few), draws, strict=True):
            before = np.array(((26, 26), (26, 6), (6, 6)))
            after = before + (draw[0] * 2 - 1) * reach
            back = np.linalg.solve(np.c_[after, np.ones(3)], before)  # (x, y, 1) of the result to (x, y) of the image
            source = np.stack((x, y, np.ones_like(x)), -1) @ back
            bent = np.stack(
                [
                    ndimage.map_coordinates(
                        pixels[..., c] / 255, (source[..., 1], source[..., 0]), order=1, mode="mirror"
                    )
                    for c in range(3)
                ]
            )
            across, down = np.zeros((2, 32, 32))
            if alpha:
                across, down = (
                    ndimage.gaussian_filter(field.astype(float) * 2 - 1, sigma, mode="reflect", truncate=3) * alpha
                    for field in draw[1]
                )
            expected.append(levels(np.stack([
                ndimage.map_coordinates(channel, (y + down, x + across), order=1, mode="reflect") for channel in bent
            ], -1)))  # fmt: skip
        close(result, expected, 0.02, 2)


def test_distances_to_edges_are_euclidean_but_for_two_per_cent():
    from advdpnp.corruption.operations.edges import distance_to

    edge = torch.rand(8, 1, 40, 36, generator=torch.Generator().manual_seed(0)) < 0.01
    expected = np.stack([ndimage.distance_transform_edt(~e[0].numpy()) for e in edge])[:, None]
    result = distance_to(edge, 20).numpy()
    np.testing.assert_allclose(result, np.minimum(expected, 20), rtol=0.025)
    assert (distance_to(torch.zeros(1, 1, 9, 9, dtype=torch.bool), 20) == 20).all()


def test_edges_are_found_where_a_square_ends_and_weak_ones_only_beside_strong_ones():
    from advdpnp.corruption.operations.edges import canny

    images = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    images[0, :, 4:10, 4:10] = 200
    images[1, :, 4:10, 4:10] = 20  # its gradient, at most 80, is weak everywhere
    edge = canny(images, 50, 150)
    assert edge[0, 0, 3:11, 3:11].sum() == edge[0].sum() > 16
    assert not edge[0, 0, 6:8, 6:8].any()
    assert not edge[1].any()


def test_equalisation_spreads_levels_by_their_rank():
    from advdpnp.corruption.functions.spatter import equalise

    images = torch.tensor([[0, 0, 3, 7], [5, 5, 5, 5]], dtype=torch.uint8).reshape(2, 1, 2, 2)
    assert equalise(images).flatten(1).tolist() == [[0, 0, 128, 255], [5, 5, 5, 5]]
