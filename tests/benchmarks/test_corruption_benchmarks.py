"""The scripts that time corruptions and compare their profile: what they leave out and how they count."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import advdpnp
from advdpnp.base.errors import AdvdpnpError
from advdpnp.corruption import BENCHMARK, EXTRA

REPOSITORY = Path(advdpnp.__file__).resolve().parent.parent


@pytest.fixture
def script(monkeypatch):
    """Scripts are no part of the installed package."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_functions_that_fail_there_are_named_and_not_counted(script):
    seen = []

    def corrupt(image, corruption_name, severity):
        assert image.shape == (32, 32, 3)
        if corruption_name == "fog":
            raise AttributeError("np.float_ is gone")
        seen.append(corruption_name)

    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    rows = list(script("corruptions").compare(images, 4, 2, SimpleNamespace(corrupt=corrupt)))
    table = pd.DataFrame(rows).set_index("case")
    assert list(table.index) == [*BENCHMARK, *EXTRA]
    assert table.loc["fog", "remark"] == "imagecorruptions: np.float_ is gone"
    assert table["ratio"].isna().sum() == 1
    assert seen.count("snow") == 5 + 2 * 4 * 5  # a warm-up, then two turns of four images at five severities
    assert np.allclose(table["ratio"], table["imagecorruptions, extrapolated"] / table["seconds"], equal_nan=True)


def test_without_the_package_ours_is_timed_alone(script):
    rows = list(script("corruptions").compare(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), 8, 1, None))
    assert all(row["seconds"] > 0 and "ratio" not in row and "not installed" in row["remark"] for row in rows)


def test_the_profile_is_compared_type_by_type(script, monkeypatch):
    module = script("corruption_profile")
    found = {f"corruption:{name}": [module.PUBLISHED[name] - 5, float("nan")] for name in BENCHMARK}
    found["corruption:gaussian_noise"][0] -= 15
    monkeypatch.setattr(module, "read_leaderboard", lambda path: pd.DataFrame({"model": ["net", "part"], **found}))
    table = module.accuracies(Path("leaderboard.csv"), "net")
    assert table["difference"].tolist() == pytest.approx([-20, *[-5] * 14])
    assert table["off"].sum() == pytest.approx(0)
    for name in ("part", "nobody"):
        with pytest.raises(AdvdpnpError, match="no row of"):
            module.accuracies(Path("leaderboard.csv"), name)
    monkeypatch.setattr(module, "read_leaderboard", lambda path: pd.DataFrame({"model": ["net"], "clean": [50.0]}))
    with pytest.raises(AdvdpnpError, match="no row of"):
        module.accuracies(Path("leaderboard.csv"), "net")
