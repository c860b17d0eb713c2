"""What figures share: labels that do not lie on each other."""

import os
import subprocess
import sys

import numpy as np
import pytest

from advdpnp.base.plotting import spread_boxes


def overlaps(centres: np.ndarray, sizes: np.ndarray) -> int:
    count = 0
    for i in range(len(centres)):
        for j in range(i):
            count += all(abs(centres[i] - centres[j]) < (sizes[i] + sizes[j]) / 2 - 1e-6)
    return count


@pytest.mark.parametrize("spread", [0.0, 5.0, 40.0])
def test_boxes_that_lay_on_each_other_no_longer_do(spread):
    generator = np.random.default_rng(0)
    sizes = np.column_stack([generator.uniform(20, 60, 10), np.full(10, 9.0)])
    centres = spread * generator.normal(size=(10, 2))
    assert overlaps(centres, sizes) > 0
    assert overlaps(spread_boxes(centres, sizes), sizes) == 0


def test_boxes_that_do_not_touch_stay_and_a_pair_moves_by_half_each():
    sizes = np.full((3, 2), 10.0)
    apart = np.array([[0.0, 0.0], [30.0, 0.0], [0.0, 30.0]])
    np.testing.assert_array_equal(spread_boxes(apart, sizes), apart)
    near = np.array([[0.0, 0.0], [1.0, 6.0]])
    np.testing.assert_allclose(spread_boxes(near, sizes[:2]), [[0, -2], [1, 8]], atol=1e-5)


@pytest.mark.parametrize(("asked", "taken"), [("nonsense", "None"), ("svg", "svg")])
def test_a_window_that_is_not_there_stops_no_program(asked: str, taken: str) -> None:
    code = (
        "import os, advdpnp; advdpnp.evaluate; import matplotlib as m; "
        "print(os.environ['MPLBACKEND'], m.get_backend(auto_select=False))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "MPLBACKEND": asked}, capture_output=True, text=True
    )
    assert (said.returncode, said.stdout.split()) == (0, [asked, taken]), said.stderr
