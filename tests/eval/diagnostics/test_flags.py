from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advdpnp.attacks import AttackInfo
from advdpnp.attacks.names import reference_of
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.diagnostics import DiagnosticRecord, write_diagnostics
from advdpnp.eval.diagnostics.flags import raised_flags
from advdpnp.eval.diagnostics.texts import FLAGS
from advdpnp.eval.report.leaderboard import build_leaderboard
from advdpnp.eval.report.markdown import to_markdown
from advdpnp.eval.store.reader import find_results

Store = Callable[..., Path]
BF16 = " (bf16 search)"
GOOD = {"clean": 0.9, "fgsm": 0.5, "pgd-20": 0.4, "cw": 0.38, "autoattack": 0.35}


def codes(out: Path) -> list[str]:
    (row,) = make_rows(find_results([out]))
    found = [flag.code for flag in raised_flags(row)]
    assert set(found) <= set(FLAGS)
    return found


def as_named(attack: str, way: str) -> str:
    """How tables call an attack of ours, of a search in bf16, or of the reference packages (where they have it)."""
    return f"{attack}{BF16}" if way == "bf16" else (reference_of(attack) or attack) if way == "reference" else attack


@pytest.mark.parametrize("way", ["own", "bf16", "reference"])
@pytest.mark.parametrize(
    ("robust", "column", "raised"),
    [
        (GOOD, {}, []),
        ({"clean": 0.9, "fgsm": 0.3, "pgd-20": 0.4, "cw": 0.38, "autoattack": 0.3}, {}, ["order"]),
        ({"clean": 0.9, "pgd-10": 0.3, "pgd-40": 0.4}, {}, ["order"]),
        ({"clean": 0.9, "cw": 0.3, "autoattack": 0.4}, {}, ["order"]),
        ({"clean": 0.9, "fgsm": 0.8, "pgd-20": 0.02}, {}, ["single-step"]),
        ({"clean": 0.9, "pgd-20": 0.5, "cw": 0.4}, {}, ["ce-margin-gap"]),
        ({"clean": 0.9, "fgsm": 0.5, "pgd-20": 0.4}, {"zero_gradient": np.ones(200, bool)}, ["zero-gradient"]),
        ({"clean": 0.9, "square": 0.3, "apgd-ce": 0.5}, {}, ["black-box"]),
        ({"clean": 0.9, "pgd-20": 0.9}, {"margin": np.where(np.arange(200) < 180, 1.0, -1.0)}, ["unmoved"]),
    ],
)
def test_flags_and_the_order_of_columns_do_not_hang_on_names(
    store_model: Store, robust: dict[str, float], column: dict[str, Any], raised: list[str], way: str
) -> None:
    attacks = [name for name in robust if name != "clean"]
    named = {"clean": robust["clean"], **{as_named(name, way): robust[name] for name in reversed(attacks)}}
    out = store_model("net", named, others=dict.fromkeys(named, column))
    frame = build_leaderboard([out])
    assert [code for code in frame["flags"][0].split("; ") if code] == raised
    cheapest_first = [name for name in ("fgsm", "pgd-10", "pgd-20", "cw", "pgd-40", "apgd-ce", "square", "autoattack")
                      if name in robust]  # fmt: skip
    shown = [name for name in frame if name in named and name != "clean"]
    assert shown == [as_named(name, way) for name in cheapest_first]


@pytest.mark.parametrize("way", ["own", "bf16", "reference"])
def test_autoattack_for_few_classes_is_named_by_its_stages(store_model: Store, way: str) -> None:
    out = store_model("net", {"clean": 0.9, as_named("autoattack-few-classes", way): 0.3}, classes=3)
    assert codes(out) == ["few-classes"]


def test_an_attack_that_says_what_it_is_takes_part(store_model: Store) -> None:
    mine = AttackInfo(family="pgd", loss="ce", steps=100, uses_gradients=True, cost_rank=200)
    robust = {"clean": 0.9, "pgd-20": 0.3, "mine": 0.4, "fgsm": 0.5}
    out = store_model("net", robust, declared={"mine": mine})
    frame = build_leaderboard([out])
    assert frame["flags"].tolist() == ["order"]
    assert frame["flag_details"].tolist() == ["order: pgd-20 leaves 30.00 %, mine 40.00 %"]
    assert [name for name in frame if name in robust] == ["clean", "fgsm", "pgd-20", "mine"]


def test_an_attack_that_says_nothing_promises_nothing(store_model: Store) -> None:
    out = store_model("net", {"clean": 0.9, "pgd-20": 0.3, "mine": 0.4, "cw": 0.32, "autoattack": 0.28})
    frame = build_leaderboard([out])
    assert frame["flags"].tolist() == [""]
    assert [name for name in frame if name in ("pgd-20", "cw", "mine", "autoattack")][-2:] == ["mine", "autoattack"]


def test_a_declared_info_is_no_part_of_the_hash(store_model: Store, tmp_path: Path) -> None:
    store_model("a", {"clean": 0.9, "mine": 0.4}, declared={"mine": AttackInfo(family="pgd", loss="ce", steps=7)})
    out = store_model("b", {"clean": 0.9, "mine": 0.4})
    a, b = (row.attacks["mine"] for row in make_rows(find_results([out])))
    assert a.hash == b.hash
    assert (a.attack_info.steps, b.attack_info.steps) == (7, 0)


@pytest.mark.parametrize(
    ("attack", "column", "raised"),
    [
        ("pgd-20", {"refused": np.ones(200, np.int64), "backwards": np.zeros(200, np.int64)}, ["rejected"]),
        ("torchattacks:PGD", {"norm": np.where(np.arange(200) < 100, 0.5, np.inf)}, ["rejected"]),
        ("torchattacks:DeepFool", {"norm": np.where(np.arange(200) < 100, 0.5, np.inf)}, []),  # at any distance
        ("pgd-20 (bf16 search)", {"refused": np.ones(200, np.int64)}, []),  # goes on in float32
        ("fab-t", {"margin": np.where(np.arange(200) < 180, 1.0, -1.0)}, []),  # it ends at the clean image
        ("pgd-20", {"norm": np.full(200, np.inf)}, []),
    ],
)
def test_an_attack_that_breaks_nothing_is_doubted(
    store_model: Store, attack: str, column: dict[str, Any], raised: list[str]
) -> None:
    norm = "l2" if attack.endswith("DeepFool") else "linf"
    out = store_model("net", {"clean": 0.9, attack: 0.9}, norm=norm, eps="0.1", others={attack: column})
    assert codes(out) == raised


@pytest.mark.parametrize(("column", "raised"), [("refused", ["unverified"]), ("margin", [])])
def test_an_attack_that_breaks_something_is_not(store_model: Store, column: str, raised: list[str]) -> None:
    values = {"refused": np.ones(200, np.int64), "margin": np.where(np.arange(200) < 180, 1.0, -1.0)}[column]
    zero = np.zeros(200, np.int64)
    out = store_model("net", {"clean": 0.9, "square": 0.89}, others={"square": {column: values, "backwards": zero}})
    assert codes(out) == raised


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
    norm, eps = ("l2", "0.5") if weaker == "cw-l2" else ("linf", "8/255")
    assert codes(store_model("net", {"clean": 0.9, weaker: 0.3, stronger: 0.4}, norm=norm, eps=eps)) == ["order"]


def test_order_is_not_raised_by_chance_or_where_there_is_none(store_model: Store) -> None:
    assert codes(store_model("a", {"clean": 0.9, "fgsm": 0.40, "pgd-20": 0.42})) == []  # 4 of 200 samples: p = 0.125
    out = store_model("b", {"clean": 0.9, "pgd-20": 0.40, "torchattacks:Square": 0.60})
    assert [flags for flags in build_leaderboard([out])["flags"] if flags] == []


@pytest.mark.parametrize(
    ("robust", "raised"),
    [
        ({"clean": 0.9, "fgsm": 0.8, "pgd-20": 0.02}, ["single-step"]),  # overfitted to one step
        ({"clean": 0.9, "fgsm": 0.8, "pgd-5": 0.5, "pgd-20": 0.1}, ["single-step"]),
        ({"clean": 0.9, "fgsm": 0.3, "pgd-20": 0.0}, []),  # undefended
        ({"clean": 0.9, "fgsm": 0.63, "pgd-20": 0.4}, []),  # undefended, small radius
        ({"clean": 0.5, "fgsm": 0.3, "pgd-20": 0.28}, []),  # defended
        ({"clean": 0.9, "fgsm": 0.8}, []),
    ],
)
def test_a_net_that_only_one_step_leaves_right_is_named(
    store_model: Store, robust: dict[str, float], raised: list[str]
) -> None:
    assert codes(store_model("net", robust)) == raised


def test_a_net_that_only_one_step_leaves_right_is_named_by_what_was_measured(store_model: Store) -> None:
    out = store_model("net", {"clean": 0.9, "cw": 0.1}, n=100)
    row = build_leaderboard([out]).iloc[0]
    right = {"clean": "1" * 90 + "0" * 10, "fgsm": "1" * 80 + "0" * 20, "pgd-20": "1" * 5 + "0" * 95}
    for norm, eps, text in (("", None, ""), ("linf", 8 / 255, "8/255")):
        numbers = {"right": right if norm else {"clean": right["clean"]}}
        measured = DiagnosticRecord(row["weights_hash"], "d" * 64, 100, 0, norm, eps, text, numbers)
        write_diagnostics(next(out.glob("net-*")), measured)
    row = build_leaderboard([out]).iloc[0]
    assert row["flags"] == "single-step"
    assert "of 100 images, fgsm leaves 80.00 %, pgd-20 5.00 %" in row["flag_details"]


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
    assert codes(store_model("a", {"clean": 0.9, "pgd-20": 0.5, "cw": 0.4}, n=20)) == []
    out = store_model("b", {"clean": 0.9, "pgd-20": 0.5, "cw": 0.444}, n=128)  # 7 images, all on one side: p = .016
    assert [flags for flags in build_leaderboard([out])["flags"] if flags] == []


def test_a_gap_that_may_be_small_is_not_raised_on_few_images(store_model: Store) -> None:
    assert codes(store_model("net", {"clean": 0.9, "pgd-20": 0.5, "cw": 0.4375}, n=128)) == []  # 8 images: p = .008
    out = store_model("net", {"clean": 0.9, "pgd-20": 0.5, "cw": 0.4375}, n=1280)
    assert build_leaderboard([out])["flags"].tolist() == ["ce-margin-gap"]


def test_the_table_joins_codes_and_says_what_was_seen(store_model: Store) -> None:
    robust: dict[str, Any] = {"clean": 0.9, "fgsm": 0.1, "pgd-20": 0.4, "pgd-40": 0.5}
    row = build_leaderboard([store_model("net", robust, randomised=True)]).iloc[0]
    assert row["flags"] == "order; randomised"
    assert "fgsm leaves 10.00 %, pgd-20 40.00 %" in row["flag_details"]


@pytest.mark.parametrize(("late", "raised"), [(3, []), (12, ["black-box"])])
def test_a_black_box_that_breaks_what_gradients_left_is_raised(
    store_model: Store, late: int, raised: list[str]
) -> None:
    robust = {"clean": 0.9, "autoattack": 0.4}  # of 200: 80 hold, 120 are broken
    stage = np.zeros(200, np.int64)
    stage[80 : 80 + late] = 3
    out = store_model("net", robust, others={"autoattack": {"stage": stage}})
    assert codes(out) == raised


def test_a_black_box_beside_attacks_with_gradients_is_compared_with_all_of_them(store_model: Store) -> None:
    assert codes(store_model("a", {"clean": 0.9, "square": 0.3, "apgd-ce": 0.5, "apgd-t": 0.28})) == []
    out = store_model("b", {"clean": 0.9, "square": 0.3, "apgd-ce": 0.5})
    assert [flags for flags in build_leaderboard([out])["flags"] if flags] == ["black-box"]


@pytest.mark.parametrize(("share", "raised"), [(0.04, []), (0.1, ["unverified"])])
@pytest.mark.parametrize("attack", ["pgd-20", "torchattacks:Square"])
def test_answers_that_the_model_took_back_are_raised(
    store_model: Store, share: float, raised: list[str], attack: str
) -> None:
    column = {"refused": (np.arange(200) < share * 200).astype(np.int64) * 3}
    if attack != "pgd-20":
        column["backwards"] = np.zeros(200, np.int64)
    assert codes(store_model("net", {"clean": 1.0, attack: 0.4}, others={attack: column})) == raised


def test_a_larger_radius_that_breaks_less_is_raised_in_its_row_alone(store_model: Store) -> None:
    store_model("net", {"clean": 0.9, "pgd-20": 0.3}, eps="8/255")
    store_model("other", {"clean": 0.9, "pgd-20": 0.1}, eps="8/255")
    out = store_model("net", {"clean": 0.9, "pgd-20": 0.5}, eps="16/255")
    frame = build_leaderboard([out]).set_index(["model", "eps_text"])
    assert frame["flags"].to_dict() == {("net", "8/255"): "", ("other", "8/255"): "", ("net", "16/255"): "order"}
    assert "pgd-20 leaves 30.00 % at 8/255, 50.00 % at 16/255" in frame.loc[("net", "16/255"), "flag_details"]


def test_what_was_measured_is_flagged_with_what_was_seen(store_model: Store) -> None:
    out = store_model("net", GOOD)
    row = build_leaderboard([out]).iloc[0]
    right = {"clean": "1" * 50 + "0" * 50, "normalised": "1" * 80 + "0" * 20, "denormalised": "0" * 100}
    answers = {
        "probabilities": True,
        "overlooked": 0.3,
        "differentiations": 2,
        "training_modules": ["bn1"],
        "right": right,
    }
    search = {
        "zero_start": 0.0, "zero_gradient": 0.2, "nan_gradient": 0.0, "rising": 0.5, "rounded": 0.9,
        "right": {"noise": "1" * 60 + "0" * 40, "fgsm": "1" * 90 + "0" * 10, "pgd-20": "0" * 100,
                  "pgd-20 at 0.5": "1" * 20 + "0" * 80},
    }  # fmt: skip
    folder = next(out.glob("net-*"))
    for norm, eps, text, numbers in (("", None, "", answers), ("linf", 8 / 255, "8/255", search)):
        write_diagnostics(folder, DiagnosticRecord(row["weights_hash"], "d" * 64, 100, 0, norm, eps, text, numbers))
    raised = codes(out)
    assert set(raised) == {
        "order", "zero-gradient", "rising-loss", "large-eps", "above-clean", "train-mode", "dynamic", "softmax",
        "quantised", "normalisation", "rounding", "single-step",
    }  # fmt: skip
    assert "20 % of 100 images, during PGD: zero" in build_leaderboard([out]).iloc[0]["flag_details"]


@pytest.mark.parametrize(("in_range", "raised"), [("1" * 90 + "0" * 10, {"chance"}), ("0" * 100, {"normalisation"})])
def test_a_range_that_makes_a_model_of_14_percent_better_is_told(
    store_model: Store, in_range: str, raised: set[str]
) -> None:
    out = store_model("net", GOOD)
    row = build_leaderboard([out]).iloc[0]
    right = {"clean": "1" * 14 + "0" * 86, "normalised": "1" * 43 + "0" * 57}
    answers = {"right": right, "chance": {"classes": 10, "right": {"0,255": in_range}}}
    write_diagnostics(
        next(out.glob("net-*")), DiagnosticRecord(row["weights_hash"], "d" * 64, 100, 0, "", None, "", answers)
    )
    assert set(codes(out)) & {"chance", "normalisation"} == raised


def test_every_flag_says_what_it_means_and_what_to_do(store_model: Store) -> None:
    for meaning in FLAGS.values():
        assert meaning.explanation
        assert meaning.remedy
    markdown = to_markdown(build_leaderboard([store_model("net", GOOD, randomised=True)]))
    assert f"- `randomised`: {FLAGS['randomised'].explanation}. Remedy: {FLAGS['randomised'].remedy}." in markdown


@pytest.mark.parametrize(
    ("robust", "raised"),
    [
        ({"clean": 0.9, "pgd-40": 0.2, "cw-l2": 0.4}, ["minimum-norm"]),
        ({"clean": 0.9, "pgd-40": 0.2, "cw-l2": 0.21}, []),
        ({"clean": 0.9, "pgd-40": 0.4, "cw-l2": 0.2}, []),
        ({"clean": 0.9, "fgsm": 0.2, "cw-l2": 0.4}, []),
    ],
)
def test_a_minimum_norm_attack_that_misses_what_pgd_finds_is_flagged(
    store_model: Store, robust: dict[str, float], raised: list[str]
) -> None:
    assert codes(store_model("net", robust, norm="l2", eps="0.5")) == raised


@pytest.mark.parametrize(
    ("norm", "eps", "left", "raised"),
    [("l2", "8/255", 0.9, True), ("l2", "8/255", 0.7, False), ("l2", "0.5", 0.9, False), ("linf", "8/255", 0.9, False)],
)
def test_an_l2_radius_that_is_one_of_linf_is_flagged(
    store_model: Store, norm: str, eps: str, left: float, raised: bool
) -> None:
    out = store_model("net", {"clean": 0.9, "pgd-20": left}, norm=norm, eps=eps)
    assert ("small-eps" in codes(out)) is raised
