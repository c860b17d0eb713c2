"""What tests of the command line share."""

import pytest

from advdpnp.eval.run import model_run


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that attack a handful of images call the model with 16 rows, not with the default of 128."""
    monkeypatch.setattr(model_run, "DEFAULT_STATIC_BATCH_SIZE", 16)
