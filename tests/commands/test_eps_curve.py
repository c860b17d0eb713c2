"""Which radii --eps-curve means."""

import pytest

from advdpnp.base.errors import AdvdpnpError
from advdpnp.commands.support.models import curve_radii


def test_a_curve_goes_from_a_quarter_of_eps_to_twice_eps() -> None:
    assert curve_radii("linf", ["8/255"]) == [f"{n}/255" for n in (2, 4, 6, 8, 10, 12, 14, 16)]
    assert curve_radii("l2", ["0.5"]) == ["0.125", "0.25", "0.375", "0.5", "0.625", "0.75", "0.875", "1"]
    assert curve_radii("linf", ["2/255"])[:2] == ["0.5/255", "1/255"]


def test_radii_that_a_norm_does_not_have_are_left_out() -> None:
    assert curve_radii("linf", ["0.8"]) == ["0.2", "0.4", "0.6", "0.8", "1"]
    assert curve_radii("l0", ["4"]) == ["1", "2", "3", "4", "5", "6", "7", "8"]
    assert curve_radii("l0", ["2"]) == ["1", "2", "3", "4"]  # half pixels are rounded
    with pytest.raises(AdvdpnpError, match="give one --eps"):
        curve_radii("linf", ["2/255", "8/255"])
