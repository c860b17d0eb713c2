"""Threat models: norms, radii and what counts as inside."""

import pytest
import torch

from advdpnp.attacks import ThreatModel
from advdpnp.base.errors import AdvdpnpError


def test_l0_counts_pixels_and_not_values():
    x = torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    x_adv = x.clone()
    x_adv[1, 0, 2, 2] += 1e-7  # one value, by the least that float32 keeps
    x_adv[2, :, 1, 1], x_adv[2, 1, 3, 4] = 0, 1  # two pixels, four values
    threat = ThreatModel.parse("L0", 1)
    assert threat.distance(x, x_adv).tolist() == [0, 1, 2]
    assert threat.distance(x, x_adv).dtype == torch.float64
    assert threat.contains(x, x_adv).tolist() == [True, True, False]
    assert threat.may_contain(x, x_adv).tolist() == [True, True, False]
    assert threat.label == "l0 1"


def test_l1_sums_over_all_values():
    x, x_adv = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), 0.25)
    threat = ThreatModel.parse("l1", "12")
    assert threat.distance(x, x_adv).tolist() == [12]
    assert bool(threat.contains(x, x_adv))
    assert not bool(ThreatModel.parse("l1", "11.99").contains(x, x_adv))
    assert not bool(threat.contains(x, x_adv - 0.251))  # below 0


def test_an_image_that_is_no_number_is_outside():
    x = torch.full((1, 3, 4, 4), 0.5)
    for norm in ("linf", "l2", "l1"):
        assert not bool(ThreatModel.parse(norm, 0.5).contains(x, x * torch.nan))


@pytest.mark.parametrize("eps", ["8/255", "0.5", "2.5"])
def test_a_part_of_a_pixel_is_refused(eps):
    with pytest.raises(AdvdpnpError, match="an L0 eps counts pixels"):
        ThreatModel.parse("l0", eps)
