from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advdpnp.eval.flags import FLAGS, raised_flags
from advdpnp.eval.leaderboard import build_leaderboard
from advdpnp.eval.results import find_results, make_rows

Store = Callable[..., Path]
GOOD = {"clean": 0.9, "fgsm": 0.5, "pgd-20": 0.4, "cw": 0.38, "autoattack": 0.35}


def codes(out: Path) -> list[str]:
    (row,) = make_rows(find_results([out]))
    found = [flag.code for flag in raised_flags(row)]
    assert set(found) <= set(FLAGS)
    return found


def test_a_healthy_row_raises_nothing(store_model: Store) -> None:
    assert codes(store_model("net", GOOD)) == []


@pytest.mark.parametrize(
    ("weaker", "stronger"),
    [
        ("fgsm", "pgd-20"),
        ("fgsm", "cw"),
        ("pgd-20", "autoattack"),
        ("cw", "autoattack"),
        ("pgd-10", "pgd-40"),
        ("cw-l2", "autoattack"),
    ],
)
def test_order_is_raised_where_the_stronger_attack_leaves_significantly_more(
    store_model: Store, weaker: str, stronger: str
) -> None:
    assert codes(store_model("net", {"clean": 0.9, weaker: 0.3, stronger: 0.4})) == ["order"]


def test_order_is_not_raised_by_chance_or_where_there_is_none(store_model: Store) -> None:
    assert codes(store_model("a", {"clean": 0.9, "fgsm": 0.40, "pgd-20": 0.42})) == []  # 4 of 200 samples: p = 0.125
    out = store_model("b", {"clean": 0.9, "pgd-20": 0.40, "torchattacks:Square": 0.60})
    assert [flags for flags in build_leaderboard([out])["flags"] if flags] == []


@pytest.mark.parametrize(("share", "raised"), [(0.04, []), (0.06, ["zero-gradient"])])
@pytest.mark.parametrize("attack", ["fgsm", "pgd-20"])
def test_zero_gradient_is_raised_above_5_percent_of_attacked_samples(
    store_model: Store, attack: str, share: float, raised: list[str]
) -> None:
    n = 400
    zero = np.arange(n) < share * 0.5 * n  # half of the samples are clean mistakes, which have no gradient
    assert (
        codes(store_model("net", {"clean": 0.5, attack: 0.2}, n=n, others={attack: {"zero_gradient": zero}})) == raised
    )


def test_zero_gradient_of_a_margin_attack_is_not_this_flag(store_model: Store) -> None:
    assert (
        codes(store_model("net", {"clean": 0.9, "cw": 0.2}, others={"cw": {"zero_gradient": np.ones(200, bool)}})) == []
    )


def test_randomised_models_are_flagged(store_model: Store) -> None:
    assert codes(store_model("net", GOOD, randomised=True)) == ["randomised"]


@pytest.mark.parametrize(
    ("ce", "margin", "raised"),
    [(0.50, 0.40, ["ce-margin-gap"]), (0.40, 0.50, ["ce-margin-gap"]), (0.44, 0.40, [])],
)
def test_ce_margin_gap_is_raised_above_5_points(
    store_model: Store, ce: float, margin: float, raised: list[str]
) -> None:
    assert codes(store_model("net", {"clean": 0.9, "pgd-20": ce, "cw": margin})) == raised


def test_a_gap_of_few_samples_is_chance(store_model: Store) -> None:
    assert codes(store_model("net", {"clean": 0.9, "pgd-20": 0.5, "cw": 0.4}, n=20)) == []


def test_the_few_classes_variant_is_flagged(store_model: Store) -> None:
    assert codes(store_model("net", {"clean": 0.9, "autoattack-few-classes": 0.3})) == ["few-classes"]


def test_the_table_joins_codes_and_says_what_was_seen(store_model: Store) -> None:
    robust: dict[str, Any] = {"clean": 0.9, "fgsm": 0.1, "pgd-20": 0.4, "pgd-40": 0.5}
    row = build_leaderboard([store_model("net", robust, randomised=True)]).iloc[0]
    assert row["flags"] == "order; randomised"
    assert "fgsm leaves 10.00 %, pgd-20 40.00 %" in row["flag_details"]
