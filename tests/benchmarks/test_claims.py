"""The page of claims follows from the stored results, and its verdicts from the figures beside them."""

import importlib
from pathlib import Path

import pytest

import advdpnp

REPOSITORY = Path(advdpnp.__file__).resolve().parent.parent


@pytest.fixture
def claims(monkeypatch):
    """The modules of the script, which is no part of the installed package."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    return {
        name: importlib.import_module(f"benchmarks.claims.{name}")
        for name in ("findings", "list", "measures", "__main__")
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
