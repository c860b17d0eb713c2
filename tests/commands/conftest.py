"""What tests of the command line share."""

import pytest

from advdpnp.eval.run.components import STATIC_BATCH_SIZES


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that attack a handful of images call the model with 16 rows, not with the default of 128."""
    monkeypatch.setitem(STATIC_BATCH_SIZES, "cpu", 16)
