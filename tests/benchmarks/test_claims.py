"""The page of claims follows from the stored results, and its verdicts from the figures beside them."""

import importlib
from pathlib import Path

import pandas as pd
import pytest
import torch

import advdpnp

REPOSITORY = Path(advdpnp.__file__).resolve().parent.parent


@pytest.fixture
def claims(monkeypatch):
    """The modules of the script, which is no part of the installed package."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    return {
        name: importlib.import_module(f"benchmarks.claims.{name}")
        for name in ("findings", "list", "measures", "stability", "__main__")
    }


def test_the_committed_page_is_what_the_stored_results_give(claims):
    page = claims["__main__"].page(REPOSITORY / "results")
    assert page == (REPOSITORY / "results" / "claims.md").read_text(encoding="utf-8")


def test_a_difference_decides_if_it_is_significant_and_competing_if_no_large_loss_is_possible(claims):
    of_difference = claims["findings"].of_difference
    assert of_difference(2.0, 0.5, 0.01, level=0.05, competes=False) == "holds"
    assert of_difference(-4.0, -6.0, 0.01, level=0.05, competes=True) == "does not hold"
    assert of_difference(2.0, -1.0, 0.3, level=0.05, competes=False) == "not decided"
    assert of_difference(-1.0, -2.5, 0.3, level=0.05, competes=True) == "holds"
    assert of_difference(-1.0, -3.5, 0.3, level=0.05, competes=True) == "not decided"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["holds", "not decided"], "holds"),
        (["holds", "does not hold"], "holds in part"),
        (["not decided", "does not hold"], "does not hold"),
        (["holds", "holds in part"], "holds in part"),
        (["not decided", "holds in part"], "holds in part"),
        (["not decided", "not decided"], "not decided"),
        (["not tested"], "not tested"),
    ],
)
def test_several_findings_make_one_verdict(claims, verdicts, expected):
    findings = claims["findings"]
    assert findings.together([findings.Finding(verdict, "") for verdict in verdicts]) == expected


def test_a_lead_is_measured_against_the_rival_that_comes_nearest(claims):
    measures, names = claims["measures"], claims["list"]
    folder = REPOSITORY / "results" / "cifar10"
    ours = "cifar10-adv-dpnp-s0"
    alone = [measures.against_rivals(folder, ours, [rival], "clean", "net") for rival in names.RIVALS]
    every = measures.against_rivals(folder, ours, names.RIVALS, "clean", "net")
    assert "(trades) 53.7" in every.words
    assert all(each.verdict == "holds" for each in [*alone, every])
    losing = measures.against_rivals(folder, "cifar10-trades-s0", [ours], "clean", "net", competes=True)
    assert losing.verdict == "does not hold"
    assert "-3.2 points" in losing.words


@pytest.mark.parametrize(
    ("ours", "rivals", "verdict"),
    [
        ("adv-dpnp", ("pgd-at",), "holds"),
        ("dpnp", ("ce", "dpp"), "holds in part"),  # the largest MinSep, but dpp is more compact
        ("pgd-at", ("adv-dpnp",), "does not hold"),
    ],
)
def test_compact_and_separate_are_two_parts_of_a_claim(claims, ours, rivals, verdict):
    folder = REPOSITORY / "results" / "cifar10" / "geometry"
    assert claims["measures"].compact_and_separate(folder, ours, rivals, "net").verdict == verdict


def test_a_study_without_the_variant_is_named(claims):
    with pytest.raises(ValueError, match="dpnp, feature_dim 3"):
        claims["measures"].study(REPOSITORY / "results" / "studies", "dimensions", "dpnp, feature_dim 4", "clean")


def test_prototypes_turn_by_the_mean_angle_between_epochs_whatever_their_length(claims):
    right, up = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    vectors = torch.stack([torch.stack([right, up]), torch.stack([5 * up, up]), torch.stack([up, right + up])])
    assert claims["stability"].turned(vectors) == pytest.approx((90 + 0 + 0 + 45) / 4)


@pytest.mark.parametrize(
    ("clean", "both", "verdict"),
    [
        ((1.0, 1.1, 1.2), (3.0, 3.1, 3.2), "holds"),
        ((3.0, 3.1, 3.2), (1.0, 1.1, 1.2), "does not hold"),
        ((1.0, 2.0, 3.0), (1.1, 2.1, 3.1), "not decided"),
    ],
)
def test_prototypes_are_stable_if_they_turn_less(claims, tmp_path, clean, both, verdict):
    (tmp_path / "studies").mkdir()
    turned = [*clean, *both]
    table = {"branches": ["clean"] * 3 + ["both"] * 3, "turned": turned, "validation_clean": 98.0}
    frame = pd.DataFrame({**table, "validation_pgd_margin": 75.0})
    frame.to_csv(tmp_path / "studies" / "prototype-branches.csv", index=False)
    (found,) = claims["stability"].stable(tmp_path)
    assert found.verdict == verdict
