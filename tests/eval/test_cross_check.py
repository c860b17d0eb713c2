"""Both engines on the same samples: agreement is found, and so is a disagreement."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from advdpnp.attacks.flight import Findings
from advdpnp.checkpoint import weights_hash
from advdpnp.datasets import Dataset, Split
from advdpnp.errors import AdvdpnpError
from advdpnp.eval import run as run_module
from advdpnp.eval.cross_check import cross_check, in_words
from advdpnp.zoo import LoadedModel


@pytest.fixture
def data() -> Dataset:
    images = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    empty = Split(images[:0], torch.zeros(0).long())
    with torch.no_grad():
        labels = _net()(images / 255).argmax(1)
    return Dataset("toy", tuple("abcd"), empty, empty, Split(images, labels), "none")


def _net() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with torch.no_grad():
        weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
        net[1].weight.copy_(weight - weight.mean(1, keepdim=True))
        net[1].bias.zero_()
    return net.eval()


def compare(out: Path, data: Dataset, attacks: str = "fgsm,pgd-3,apgd-ce", limit: int = 30) -> pd.DataFrame:
    model = LoadedModel(_net(), "net", weights_hash(_net()), "Linear", "", 260, {})
    settings: dict[str, Any] = {"eps": ["0.05"], "device": "cpu"}
    return cross_check([model], data, attacks, out, limit=limit, seed=0, **settings)


def test_equal_attacks_agree(tmp_path: Path, data: Dataset) -> None:
    frame = compare(tmp_path, data)
    assert frame["attack"].tolist() == ["apgd-ce", "fgsm", "pgd-3"]
    assert frame["reference"].tolist() == ["pyautoattack:apgd-ce", "torchattacks:FGSM", "torchattacks:PGD-3"]
    assert frame["n"].tolist() == [30] * 3
    assert (frame["own_accuracy"] - frame["reference_accuracy"]).abs().max() < 7
    assert 0 < frame["own_accuracy"].min() < 100
    assert len(pd.read_csv(tmp_path / "cross-check.csv")) == 3
    assert all("they agree" in line for line in in_words(frame) if "leaves" in line)
    assert compare(tmp_path, data, limit=20)["n"].tolist() == [20] * 3


def test_a_disagreement_is_listed(tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    search = run_module.search

    def blind(*positional: Any, **settings: Any) -> Any:
        for found in search(*positional, **settings):
            yield Findings(**{**found.__dict__, "success": torch.zeros_like(found.success)})

    monkeypatch.setattr(run_module, "search", blind)
    frame = compare(tmp_path, data, "pgd-3")
    row = frame.iloc[0]
    assert row["own_accuracy"] == 100
    assert row["only_own"] == ""
    assert len(row["only_reference"].split()) == round((100 - row["reference_accuracy"]) * 0.3)
    assert row["p"] < 0.05
    first, second = in_words(frame)
    assert "differ more than chance does" in first
    assert second == f"  only torchattacks:PGD-3 breaks: {row['only_reference']}"


def test_without_a_counterpart_there_is_nothing_to_compare(tmp_path: Path, data: Dataset) -> None:
    with pytest.raises(AdvdpnpError, match="no counterpart of cw"):
        compare(tmp_path, data, "cw")
