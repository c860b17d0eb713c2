"""A sample of every evaluation is searched again, and what was claimed without a trace is found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.datasets import Dataset
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.api import evaluate_models
from advdpnp.eval.audit.images import Auditor
from advdpnp.eval.audit.replay import Replay, Replayer, chance_of_missing
from advdpnp.eval.audit.signature import refuse_forged, sign
from advdpnp.eval.run.components import Components
from advdpnp.eval.store.reader import StoredEvaluation, find_results
from advdpnp.eval.store.rules.seal import SEAL, unbroken_seals, write_seal
from advdpnp.models.checkpoint import weights_hash
from advdpnp.models.loading import LoadedModel

Net = Callable[..., nn.Module]


@pytest.fixture
def stored(tmp_path: Path, data: Dataset, net: Net) -> Path:
    loaded = LoadedModel(net(), "net", weights_hash(net()), "Linear", "", 260, {})
    evaluate_models(
        [loaded], data, out=tmp_path / "out", attacks="fgsm,pgd-4", eps=["8/255"], device="cpu",
        save_adversarials=True, components=Components(static_batch_size=16), corruptions="none",
    )  # fmt: skip
    return tmp_path / "out"


def unit_of(out: Path, label: str = "pgd-4") -> StoredEvaluation:
    (unit,) = [unit for unit in find_results([out]) if unit.label == label]
    return unit


def replay(out: Path, data: Dataset, net: Net, count: int | None = 16, **options: Any) -> Replay:
    auditor = Auditor(net(), data, torch.device("cpu"))
    alike = auditor.alike(unit_of(out, "clean"))
    return Replayer(auditor, count, 3, **{"alike": alike, **options}).replay(unit_of(out))


def claim_robust(frame: pd.DataFrame) -> None:
    """What a forger does: half of the successes become survivals, and nothing contradicts it."""
    which = frame.index[frame["success"] & (frame["clean_prediction"] == frame["label"])][::2]
    frame.loc[which, "success"] = False
    frame.loc[which, "adversarial_prediction"] = frame.loc[which, "label"]
    frame.loc[which, "norm"] = np.inf
    frame.loc[which, "margin"] *= -1


def test_honest_verdicts_come_out_the_same_to_the_last_column(stored: Path, data: Dataset, net: Net) -> None:
    found = replay(stored, data, net, None)
    assert (found.faults, found.unsettled, found.why_not) == ({}, {}, "")
    assert len(found.samples) == 50
    assert found.robust == found.claimed == int((~unit_of(stored).column("success")).sum())


def test_samples_that_are_claimed_robust_are_drawn_first_and_by_the_seed(stored: Path, data: Dataset, net: Net) -> None:
    found = replay(stored, data, net)
    assert found.robust == min(16, found.claimed)
    auditor = Auditor(net(), data, torch.device("cpu"))
    other = Replayer(auditor, 4, 4, alike=True).replay(unit_of(stored))
    assert set(other.samples) != set(Replayer(auditor, 4, 5, alike=True).replay(unit_of(stored)).samples)


def test_survivals_that_were_made_up_are_found(stored: Path, data: Dataset, net: Net, edit_rows: Any) -> None:
    edit_rows(unit_of(stored), claim_robust)
    found = replay(stored, data, net, None)
    assert len(found.faults) > 2
    assert set(found.faults.values()) == {"the verdict says robust; searched again, it is broken"}
    assert replay(stored, data, net, None, alike=False).faults  # too many for rounding


def test_a_cost_that_was_made_up_is_found(stored: Path, data: Dataset, net: Net, edit_rows: Any) -> None:
    edit_rows(unit_of(stored), lambda frame: frame.__setitem__("forwards", 1))
    assert any("forwards" in why for why in replay(stored, data, net).faults.values())
    assert not replay(stored, data, net, alike=False).faults


def test_the_chance_of_missing_a_fraud_is_that_of_a_draw_without_replacement() -> None:
    assert chance_of_missing(10, 1, 4) == pytest.approx(0.6)
    assert chance_of_missing(10, 7, 4) == 0
    empty: Any = None
    assert Replay(empty, claimed=775, robust=32).noticed[0] == 68
    assert Replay(empty, claimed=0, robust=0).noticed == (0, 1.0)


def test_a_strangers_folder_lowers_a_number_and_does_not_raise_it(
    stored: Path, tmp_path: Path, edit_rows: Any, edit_index: Any
) -> None:
    import shutil

    (row,) = make_rows(find_results([stored]))
    honest = int(row.misclassified_under("pgd-4").sum())
    other = shutil.copytree(stored, tmp_path / "stranger")
    edit_rows(unit_of(other), claim_robust)
    folder = unit_of(other).folder
    edit_index(folder / "units.json", lambda content: [run.update(date="2099-01-01") for run in content["runs"]])
    (merged,) = make_rows(find_results([stored, other]))
    assert int(merged.misclassified_under("pgd-4").sum()) == honest
    assert "differ on" in merged.contradictions[0]


def test_a_seal_is_broken_by_any_change_and_by_another_list(stored: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = tmp_path / "key.pem"
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key.write_bytes(Ed25519PrivateKey.generate().private_bytes(serialization.Encoding.PEM, *private))
    with pytest.raises(AdvdpnpError, match="no private Ed25519 key"):
        sign(stored, stored / "leaderboard.csv")
    before = sign(stored, key)
    write_seal(before)
    refuse_forged(unbroken_seals([stored]))
    model = unit_of(stored).folder / "model.json"
    model.write_text(model.read_text().replace('"net"', '"best"'))
    with pytest.raises(AdvdpnpError, match=r"model\.json in .* is not as it was sealed"):
        find_results([stored])
    path = stored / SEAL
    path.write_text(
        path.read_text().replace(sign(stored, key).files["net-" + model.parent.name[-8:] + "/units.json"], "0" * 64)
    )
    with pytest.raises(AdvdpnpError, match="not as it was sealed"):
        find_results([stored])
    other = sign(stored, key)
    write_seal(type(other)(stored, other.files, other.key, before.signature))
    with pytest.raises(AdvdpnpError, match="not that of its key"):
        refuse_forged(unbroken_seals([stored]))
