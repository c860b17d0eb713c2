"""Both engines on the same samples: agreement is found, and so is a disagreement."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from advdpnp.attacks.engine.search import search
from advdpnp.attacks.search_state import AttackResult
from advdpnp.base.errors import AdvdpnpError
from advdpnp.commands.evaluate import _run as evaluate_command
from advdpnp.datasets import Dataset
from advdpnp.eval.audit.cross_check import cross_check, in_words
from advdpnp.eval.run.components import Components
from advdpnp.models.checkpoint import weights_hash
from advdpnp.models.loading import LoadedModel

Compare = Callable[..., pd.DataFrame]


@pytest.fixture
def compare(tmp_path: Path, net: Callable[..., nn.Module], data: Dataset) -> Compare:
    model = LoadedModel(net(), "net", weights_hash(net()), "Linear", "", 260, {})
    settings: dict[str, Any] = {"eps": ["0.05"], "seed": 0, "device": "cpu"}

    def both(attacks: str = "fgsm,pgd-3,apgd-ce", limit: int = 30, **options: Any) -> pd.DataFrame:
        return cross_check([model], data, attacks, tmp_path, limit=limit, **settings, **options)

    return both


def test_equal_attacks_agree(compare: Compare) -> None:
    frame = compare()
    assert frame["attack"].tolist() == ["apgd-ce", "fgsm", "pgd-3"]
    assert frame["reference"].tolist() == ["pyautoattack:apgd-ce", "torchattacks:FGSM", "torchattacks:PGD-3"]
    assert frame["n"].tolist() == [30] * 3
    assert (frame["own_accuracy"] - frame["reference_accuracy"]).abs().max() < 7
    assert 0 < frame["own_accuracy"].min() < 100
    assert all("they agree" in line for line in in_words(frame) if "leaves" in line)
    assert compare(limit=20)["n"].tolist() == [20] * 3


def test_the_command_writes_the_table(
    tmp_path: Path, net: Callable[..., nn.Module], data: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    model = LoadedModel(net(), "net", weights_hash(net()), "Linear", "", 260, {})
    common: dict[str, Any] = {"eps": ["0.05"], "seed": 0, "device": "cpu"}
    evaluate_command([model], data, "fgsm", tmp_path / "results", common, {}, 30)
    table = pd.read_csv(tmp_path / "results-cross-check" / "cross-check.csv")
    assert table["reference"].tolist() == ["torchattacks:FGSM"]
    assert table["n"].tolist() == [30]
    said = capsys.readouterr().out
    assert "fgsm leaves" in said
    assert "cross-check.csv" in said


def test_a_disagreement_is_listed(compare: Compare) -> None:
    def blind(*positional: Any, **settings: Any) -> Any:
        for found in search(*positional, **settings):
            mistakes = found.clean_prediction != found.label
            norm = torch.where(mistakes, 0.0, torch.inf).to(found.norm)
            missed = {"success": mistakes, "adversarial_prediction": found.clean_prediction, "norm": norm}
            yield AttackResult(**{**found.__dict__, **missed})

    frame = compare("pgd-3", components=Components(search=blind))
    row = frame.iloc[0]
    assert row["own_accuracy"] == 100
    assert row["only_own"] == ""
    assert len(row["only_reference"].split()) == round((100 - row["reference_accuracy"]) * 0.3)
    assert row["p"] < 0.05
    first, second = in_words(frame)
    assert "differ more than chance does" in first
    assert second == f"  only torchattacks:PGD-3 breaks: {row['only_reference']}"


def test_without_a_counterpart_there_is_nothing_to_compare(compare: Compare) -> None:
    with pytest.raises(AdvdpnpError, match="no counterpart of cw"):
        compare("cw")
