"""The distributions of the random noises."""

import pytest
import torch
from scipy import stats

from advdpnp.corruption import SEVERITIES, corrupt

SIDE = 64
SAMPLES = 12
N = SAMPLES * 3 * SIDE * SIDE


def noised(name, severity, level):
    images = torch.full((SAMPLES, 3, SIDE, SIDE), level, dtype=torch.uint8)
    return corrupt(images, name, severity).double().flatten()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_its_deviation_and_the_mean_of_the_image(severity):
    deviation = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1] * 255
    x = noised("gaussian_noise", severity, 128)
    assert x.mean().item() == pytest.approx(127.5, abs=5 * deviation / N**0.5)  # truncation takes half a level
    assert x.std().item() == pytest.approx(deviation, rel=0.01)
    assert abs(stats.skew(x.numpy())) < 0.03
    assert abs(stats.kurtosis(x.numpy())) < 0.08


@pytest.mark.parametrize("severity", SEVERITIES)
def test_speckle_noise_grows_with_the_value(severity):
    share = (0.06, 0.10, 0.12, 0.16, 0.20)[severity - 1]
    for level in (60, 120):
        assert noised("speckle_noise", severity, level).std().item() == pytest.approx(share * level, rel=0.015)
    assert (noised("speckle_noise", severity, 0) == 0).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_sets_its_share_of_values_half_to_white(severity):
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    x = noised("impulse_noise", severity, 100)
    slack = 5 * (amount / N) ** 0.5
    assert (x == 0).double().mean().item() == pytest.approx(amount / 2, abs=slack)
    assert (x == 255).double().mean().item() == pytest.approx(amount / 2, abs=slack)
    assert ((x == 0) | (x == 100) | (x == 255)).all()


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("level", [1, 30, 128])
def test_shot_noise_is_poisson(severity, level):
    photons = (500, 250, 100, 75, 50)[severity - 1]
    rate = photons * level / 255
    x = noised("shot_noise", severity, level)
    counts = torch.ceil(x * photons / 255 - 1e-9) if photons <= 250 else None  # one level per count: invertible
    if counts is None:
        assert (x + 0.5).mean().item() == pytest.approx(level, abs=0.6)
        assert x.std().item() == pytest.approx(rate**0.5 * 255 / photons, rel=0.05 if level > 1 else 0.2)
        return
    assert counts.mean().item() == pytest.approx(rate, abs=5 * (rate / N) ** 0.5)
    assert counts.var().item() == pytest.approx(rate, rel=0.02 + 5 * (1 / (rate * N)) ** 0.5)
    for count in range(int(rate), int(rate) + 3):
        expected = stats.poisson.pmf(count, rate)
        found = (counts == count).double().mean().item()
        assert found == pytest.approx(expected, abs=5 * (expected / N) ** 0.5 + 1e-9)


def test_shot_noise_leaves_black_black_and_clips_white():
    assert (noised("shot_noise", 5, 0) == 0).all()
    white = noised("shot_noise", 5, 255)
    assert white.max() == 255
    assert (white == 255).double().mean().item() == pytest.approx(stats.poisson.sf(49, 50), abs=0.01)


def test_noise_on_neighbours_channels_and_samples_is_not_correlated():
    images = torch.full((SAMPLES, 3, SIDE, SIDE), 128, dtype=torch.uint8)
    x = corrupt(images, "gaussian_noise", 3).double()
    x -= x.mean()
    for other in (x.roll(1, 3), x.roll(1, 2), x.roll(1, 1), x.roll(1, 0)):
        assert abs((x * other).mean() / x.var()).item() < 5 / N**0.5
