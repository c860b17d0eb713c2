"""Images of one model tried on another: what counts, what does not, and that samples stand for themselves."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from advdpnp.checkpoint import weights_hash
from advdpnp.datasets import Dataset, Split
from advdpnp.errors import AdvdpnpError
from advdpnp.eval import run as run_module
from advdpnp.eval.evaluate import evaluate_models
from advdpnp.eval.results import find_results
from advdpnp.zoo import LoadedModel


def net(noise: float = 0.0, seed: int = 1, masked: bool = False) -> nn.Module:
    """Linear, 4 classes; with ``noise`` a relative of that without; ``masked`` has no gradients."""
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
    weight = weight + noise * torch.randn(4, 64, generator=torch.Generator().manual_seed(7))
    model: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with torch.no_grad():
        model[1].weight.copy_(weight - weight.mean(1, keepdim=True))  # type: ignore[index]
        model[1].bias.zero_()  # type: ignore[index]
    return (Masked(model) if masked else model).eval()


class Masked(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x * 64).round() / 64)  # type: ignore[no-any-return]


def loaded(model: nn.Module, name: str) -> LoadedModel:
    return LoadedModel(model, name, weights_hash(model), "Linear", "", 260, {})


@pytest.fixture
def data() -> Dataset:
    images = torch.randint(0, 256, (50, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    empty = Split(images[:0], torch.zeros(0).long())
    with torch.no_grad():
        labels = net()(images / 255).argmax(1)
    labels[::10] = (labels[::10] + 1) % 4
    return Dataset("toy", tuple("abcd"), empty, empty, Split(images, labels), "none")


def run(out: Path, data: Dataset, target: LoadedModel, *sources: LoadedModel, **arguments: Any) -> pd.DataFrame:
    settings: dict[str, Any] = {"attacks": "pgd-20", "eps": ["0.05"], "device": "cpu"} | arguments
    return evaluate_models([target], data, out=out, transfer_from=sources, **settings)


def test_images_of_a_relative_break_a_model_without_gradients(tmp_path: Path, data: Dataset) -> None:
    target, relative, stranger = net(0.1, masked=True), net(), net(seed=5)
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


def test_a_model_is_not_tried_on_its_own_images(tmp_path: Path, data: Dataset) -> None:
    own = loaded(net(), "own")
    assert "transfer:own" not in run(tmp_path, data, own, own).columns


def test_samples_stand_for_themselves(tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    target, source = loaded(net(0.3), "target"), loaded(net(), "source")
    run(tmp_path / "a", data, target, source)
    run(tmp_path / "b", data, target, source, limit=13)
    monkeypatch.setattr(run_module, "_TRANSFERRED", 7)
    run(tmp_path / "b", data, target, source)
    first, second = ({u.label: u.frame for u in find_results([tmp_path / part])} for part in "ab")
    pd.testing.assert_frame_equal(first["transfer:source"], second["transfer:source"])


def test_a_source_that_takes_other_images_is_named(tmp_path: Path, data: Dataset) -> None:
    source = loaded(nn.Sequential(nn.Flatten(), nn.Linear(10, 4)), "other")
    with pytest.raises(AdvdpnpError, match="other fails on the images of toy"):
        run(tmp_path, data, loaded(net(), "own"), source)
