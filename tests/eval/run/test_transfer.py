"""Images of one model tried on another: what counts, what does not, and that samples stand for themselves."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.datasets import Dataset, Split
from advdpnp.eval.api import evaluate_models
from advdpnp.eval.run.components import Components
from advdpnp.eval.store.reader import find_results
from advdpnp.models.checkpoint import weights_hash
from advdpnp.models.loading import LoadedModel

Net = Callable[..., nn.Module]


class Masked(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x * 64).round() / 64)  # type: ignore[no-any-return]


def loaded(model: nn.Module, name: str) -> LoadedModel:
    return LoadedModel(model, name, weights_hash(model), "Linear", "", 260, {})


@pytest.fixture
def data(data: Dataset) -> Dataset:
    """With one label in ten wrong."""
    labels = data.test.labels.clone()
    labels[::10] = (labels[::10] + 1) % 4
    return replace(data, test=Split(data.test.images, labels))


def run(out: Path, data: Dataset, target: LoadedModel, *sources: LoadedModel, **arguments: Any) -> pd.DataFrame:
    settings: dict[str, Any] = {"attacks": "pgd-20", "eps": ["0.05"], "device": "cpu"} | arguments
    return evaluate_models([target], data, out=out, transfer_from=sources, **settings)


def test_images_of_a_relative_break_a_model_without_gradients(tmp_path: Path, data: Dataset, net: Net) -> None:
    target, relative, stranger = Masked(net(0.1)).eval(), net(), net(seed=5)
    row = run(tmp_path, data, loaded(target, "masked"), loaded(relative, "kin"), loaded(stranger, "stranger")).iloc[0]
    assert row["pgd-20"] > row["transfer:kin"] + 20
    assert row["transfer:stranger"] > row["transfer:kin"] + 20
    assert row["worst_case"] <= row["transfer:kin"]
    frames = {unit.label: unit.frame for unit in find_results([tmp_path])}
    kin = frames["transfer:kin"]
    wrong = kin["clean_prediction"] != kin["label"]
    assert (kin["success"] & ~wrong).any()
    assert kin.loc[wrong, "success"].all()
    assert (kin.loc[kin["success"] & ~wrong, "norm"] <= 0.05 + 1e-6).all()
    assert (kin["adversarial_prediction"] != kin["label"]).tolist() == kin["success"].tolist()
    assert (kin["backwards"] == 0).all()


def test_a_model_is_not_tried_on_its_own_images(tmp_path: Path, data: Dataset, net: Net) -> None:
    own = loaded(net(), "own")
    assert "transfer:own" not in run(tmp_path, data, own, own).columns


def test_samples_stand_for_themselves(tmp_path: Path, data: Dataset, net: Net) -> None:
    target, source = loaded(net(0.3), "target"), loaded(net(), "source")
    run(tmp_path / "a", data, target, source)
    run(tmp_path / "b", data, target, source, limit=13)
    run(tmp_path / "b", data, target, source, components=Components(transfer_block=7))
    first, second = ({u.label: u.frame for u in find_results([tmp_path / part])} for part in "ab")
    pd.testing.assert_frame_equal(first["transfer:source"], second["transfer:source"])


def test_a_source_that_takes_other_images_is_named(tmp_path: Path, data: Dataset, net: Net) -> None:
    source = loaded(nn.Sequential(nn.Flatten(), nn.Linear(10, 4)), "other")
    with pytest.raises(AdvdpnpError, match="other fails on the images of toy"):
        run(tmp_path, data, loaded(net(), "own"), source)
