import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from advdpnp.attacks.protocol import check_name
from advdpnp.base.errors import AdvdpnpError
from advdpnp.cli import run
from advdpnp.corruption import BENCHMARK, EXTRA, GROUPS, SEVERITIES
from advdpnp.eval.analysis import columns
from advdpnp.eval.analysis.columns import meaning_of, read_leaderboard
from advdpnp.eval.analysis.rows import make_rows, order_attacks
from advdpnp.eval.report.exports.latex import to_latex
from advdpnp.eval.report.leaderboard import build_leaderboard, write_leaderboard
from advdpnp.eval.report.markdown import to_markdown
from advdpnp.eval.store.reader import find_results

Store = Callable[..., Path]
ALL = {"clean": 0.9, "fgsm": 0.5, "pgd-20": 0.4, "cw": 0.38, "autoattack": 0.35}


def test_columns_are_as_scripts_rely_on(store_model: Store) -> None:
    out = store_model(
        "net",
        {**ALL, "cw-l2": 0.4, "pgd-100": 0.37, "pgd-40": 0.39},
        norm="l2",
        eps="0.5",
        cells={("fog", 1): 0.8, ("fog", 2): 0.6},
    )
    frame = build_leaderboard([out])
    assert list(frame.columns)[:15] == [
        "model", "clean", "fgsm", "pgd-20", "cw", "pgd-40", "pgd-100", "cw-l2", "autoattack", "worst_case",
        "corruptions", "n", "flags", "method", "architecture",
    ]  # fmt: skip
    rest = """parameters min_separation training_seconds clean_low autoattack_high norm eps eps_text seed dataset
        weights_hash data_hash definitions
        versions date forwards backwards seconds"""
    assert set(rest.split()) <= set(frame.columns)


def test_only_attacks_that_ran_have_columns(store_model: Store) -> None:
    frame = build_leaderboard([store_model("net", {"clean": 0.9, "pgd-20": 0.4})])
    assert list(frame.columns)[:6] == ["model", "clean", "pgd-20", "worst_case", "n", "flags"]


def test_numbers_are_percent_of_all_samples_with_wilson_bounds(store_model: Store) -> None:
    row = build_leaderboard([store_model("net", ALL, n=300)]).iloc[0]
    assert (row["clean"], row["pgd-20"], row["worst_case"], row["n"]) == (90.0, 40.0, 35.0, 300)
    expected = binomtest(120, 300).proportion_ci(method="wilson")
    assert (row["pgd-20_low"], row["pgd-20_high"]) == pytest.approx(
        (100 * expected.low, 100 * expected.high), abs=0.0051
    )
    assert row["flags"] == ""
    assert row["forwards"] == 4 * 300 * 21


def test_a_sample_is_robust_only_if_nothing_broke_it(store_model: Store) -> None:
    n = 10
    first, last = np.arange(n) < 3, np.arange(n) >= 6
    out = store_model("net", {"clean": 1.0, "pgd-20": 1.0, "cw": 1.0}, n=n,
                      others={"pgd-20": {"success": first}, "cw": {"success": last}})  # fmt: skip
    row = build_leaderboard([out]).iloc[0]
    assert (row["pgd-20"], row["cw"], row["worst_case"]) == (70.0, 60.0, 30.0)


def test_clean_mistakes_are_broken_whatever_the_attack_says(store_model: Store) -> None:
    nothing = {"success": np.zeros(10, bool)}
    row = build_leaderboard([store_model("net", {"clean": 0.7, "cw": 0.7}, n=10, others={"cw": nothing})]).iloc[0]
    assert (row["clean"], row["cw"], row["worst_case"]) == (70.0, 70.0, 70.0)


def test_minimum_norm_attacks_break_what_they_reach_within_eps(store_model: Store) -> None:
    norms = np.array([0.1, 0.2, 0.5, 0.5 * (1 + 1e-7), 0.51, np.inf, 0.1, 0.9, 0.3, 0.4])
    found = {"norm": norms, "success": norms < 0.505}
    out = store_model("net", {"clean": 1.0, "cw-l2": 0.0}, n=10, norm="l2", eps="0.5", others={"cw-l2": found})
    assert build_leaderboard([out])["cw-l2"].tolist() == [30.0]


def test_all_columns_of_a_row_are_of_the_samples_that_every_attack_has_judged(store_model: Store) -> None:
    out = store_model("net", {"clean": 0.5, "pgd-20": 0.3}, n=100)
    store_model("net", {"clean": 1.0, "autoattack": 0.1}, n=40)  # overwrites nothing: the clean unit is complete
    (row,) = make_rows(find_results([out]))
    assert row.n == 40
    frame = build_leaderboard([out])
    assert frame["pgd-20"].tolist() == [75.0]  # 30 of the first 40
    assert frame["autoattack"].tolist() == [10.0]


def test_clean_images_judged_beyond_the_attacks_have_a_row_of_their_own(store_model: Store) -> None:
    store_model("net", {"clean": 0.5}, n=100)
    out = store_model("net", {"pgd-20": 0.3, "clean": 1.0}, n=40)
    frame = build_leaderboard([out])
    assert frame["n"].tolist() == [100, 40]
    assert frame["norm"].tolist() == ["", "linf"]
    assert frame["clean"].tolist() == [50.0, 100.0]
    assert pd.isna(frame["worst_case"][0])
    assert pd.isna(frame["seed"][0])


def test_every_threat_model_and_seed_is_a_row(store_model: Store) -> None:
    for eps, seed in (("8/255", 0), ("8/255", 1), ("4/255", 0)):
        out = store_model("net", ALL, eps=eps, seed=seed)
    frame = build_leaderboard([out])
    assert list(zip(frame["eps_text"], frame["seed"], strict=True)) == [("4/255", 0), ("8/255", 0), ("8/255", 1)]


def test_of_two_definitions_the_one_with_more_samples_counts_then_the_newer(store_model: Store) -> None:
    store_model("net", {"clean": 1.0, "pgd-20": 0.1}, n=50, version=1, date="2030-01-02")
    out = store_model("net", {"clean": 1.0, "pgd-20": 0.2}, n=50, version=2, date="2030-01-03")
    assert build_leaderboard([out])["pgd-20"].tolist() == [20.0]
    store_model("net", {"clean": 1.0, "pgd-20": 0.3}, n=60, version=3, date="2030-01-01")
    store_model("net", {"clean": 1.0}, n=60)
    assert build_leaderboard([out])["pgd-20"].tolist() == [30.0]


def test_rows_of_exactly_the_samples_asked_for(store_model: Store) -> None:
    store_model("net", {"clean": 0.5, "pgd-20": 0.3}, n=100)
    out = store_model("net", {"clean": 0.5, "autoattack": 0.1}, n=40)
    (row,) = make_rows(find_results([out]), np.arange(60))
    assert row.n == 60
    assert list(row.attacks) == ["pgd-20"]


def test_the_corruption_column_is_the_mean_of_the_benchmark_cells(store_model: Store) -> None:
    cells = all_cells(lambda name, severity: 0.4 + severity / 15) | {("saturate", 1): 0.0}  # the last is an extra type
    row = build_leaderboard([store_model("net", ALL, cells=cells)]).iloc[0]
    assert row["corruptions"] == 60.0
    assert row["corruption_source"] == "cifar10-c (regenerated)"
    assert row["corruptions_low"] < 60 < row["corruptions_high"]


def test_a_mean_over_some_of_its_cells_is_no_mean(store_model: Store) -> None:
    """It would pass for the number that others report."""
    cells = all_cells(lambda name, severity: 0.5) | {("spatter", 1): 0.1}
    del cells["fog", 3]
    row = build_leaderboard([store_model("net", ALL, cells=cells)]).iloc[0]
    assert (
        row[["corruptions", "corruptions_low", "corruptions_weather", "corruption:fog", "corruptions_extra"]]
        .isna()
        .all()
    )
    assert row[["corruptions_noise", "corruptions_blur", "corruption:snow"]].tolist() == [50, 50, 50]


def test_types_of_a_plug_in_stand_after_the_benchmarks(store_model: Store) -> None:
    cells = {(name, severity): severity / 10 for name in ("rain", "saturate", "fog") for severity in SEVERITIES}
    frame = build_leaderboard([store_model("net", ALL, cells=cells)])
    assert [name for name in frame if name.startswith("corruption:")] == [
        "corruption:fog", "corruption:saturate", "corruption:rain",
    ]  # fmt: skip
    markdown = to_markdown(frame)
    assert "| mean of five severities | net |" in markdown
    assert "| rain | 30.00 |" in markdown


def test_the_best_comes_first(store_model: Store) -> None:
    store_model("weak", {"clean": 0.99, "pgd-20": 0.1})
    out = store_model("strong", {"clean": 0.8, "pgd-20": 0.5})
    assert build_leaderboard([out])["model"].tolist() == ["strong", "weak"]


def test_csv_round_trip(store_model: Store, tmp_path: Path) -> None:
    store_model("7", {"clean": 0.5}, n=100, weights="1" * 64)
    out = store_model('net, "quoted"', ALL, cells={("fog", 1): 0.8}, randomised=True)
    frame = build_leaderboard([out])
    write_leaderboard(frame, tmp_path / "table")
    csv = tmp_path / "table/leaderboard.csv"
    pd.testing.assert_frame_equal(read_leaderboard(csv), frame)
    text = csv.read_text()
    assert "90.00" in text
    assert text.splitlines()[0].startswith(
        "model,clean,fgsm,pgd-20,cw,autoattack,worst_case,corruptions,n,flags,method"
    )


def test_markdown_has_a_table_per_threat_the_best_in_bold_and_flags_explained(store_model: Store) -> None:
    store_model("a|b", {"clean": 0.9, "pgd-20": 0.2})
    store_model("net", {"clean": 0.8, "pgd-20": 0.5}, randomised=True)
    out = store_model("net", {"clean": 0.8, "pgd-20": 0.5}, eps="4/255")
    text = to_markdown(build_leaderboard([out]))
    assert text.count("| model | clean | pgd-20 | worst_case | n | flags |") == 2
    assert "| net | 80.00 | **50.00** | **50.00** | 200 | randomised |" in text
    assert "a\\|b" in text
    assert "digits, linf eps 8/255, n = 200 (the first), seed 0" in text
    assert "- `randomised`: the model gives different logits" in text


def test_markdown_escapes_what_a_data_set_is_called(store_model: Store) -> None:
    out = store_model("net", {"clean": 0.9}, dataset="npz:my_*new*_set")
    assert to_markdown(build_leaderboard([out])).startswith(r"**npz:my\_\*new\*\_set, clean images only")


def test_attack_columns_go_from_cheap_to_expensive(store_model: Store) -> None:
    names = ["autoattack", "torchattacks:CW", "pgd-100", "pgd-20", "cw", "pgd-7", "fgsm"]
    (row,) = make_rows(find_results([store_model("net", dict.fromkeys(["clean", *names], 0.5))]))
    assert order_attacks([row]) == ["fgsm", "pgd-7", "pgd-20", "cw", "pgd-100", "torchattacks:CW", "autoattack"]


def test_results_are_found_in_any_depth_and_in_several_folders(store_model: Store, tmp_path: Path) -> None:
    out = store_model("net", ALL)
    (tmp_path / "deep/er").mkdir(parents=True)
    out.rename(tmp_path / "deep/er/results")
    store_model("other", ALL)
    assert len(build_leaderboard([tmp_path])) == 2
    assert len(build_leaderboard([tmp_path, out])) == 2  # what is found twice counts once


def test_folders_without_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(AdvdpnpError, match="there is no folder"):
        build_leaderboard([tmp_path / "nowhere"])
    with pytest.raises(AdvdpnpError, match="there are no results in"):
        build_leaderboard([tmp_path])
    (tmp_path / "leaderboard.csv").touch()
    with pytest.raises(AdvdpnpError, match="its tables were made from other folders: give those"):
        build_leaderboard([tmp_path])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "it is not JSON, line 1"),
        ("{}", "name is missing"),
        ("[]", "it cannot be"),
        ('{"name": "net"}', "weights_hash is missing"),
    ],
)
def test_a_damaged_model_file_is_named(store_model: Store, content: str, why: str) -> None:
    out = store_model("net", ALL)
    next(out.rglob("model.json")).write_text(content)
    with pytest.raises(AdvdpnpError, match=rf"model\.json is damaged \({why}"):
        build_leaderboard([out])


def all_cells(accuracy: Callable[[str, int], float]) -> dict[tuple[str, int], float]:
    return {(name, severity): accuracy(name, severity) for name in BENCHMARK for severity in SEVERITIES}


def test_means_per_group_of_corruptions_and_the_extra_ones_apart(store_model: Store) -> None:
    share = {"noise": 0.2, "blur": 0.4, "weather": 0.6, "digital": 0.8}
    group = {name: group for group, names in GROUPS.items() for name in names}
    cells = all_cells(lambda name, severity: share[group[name]]) | {
        (name, severity): 0.1 for name in EXTRA for severity in SEVERITIES
    }
    frame = build_leaderboard([store_model("net", ALL, cells=cells)])
    row = frame.iloc[0]
    assert {name: row[f"corruptions_{name}"] / 100 for name in share} == pytest.approx(share)
    assert row["corruptions_extra"] == 10
    assert row["corruptions"] == pytest.approx(100 * (3 * 0.2 + 4 * 0.4 + 4 * 0.6 + 4 * 0.8) / 15, abs=0.01)
    assert "| model | corruptions | noise | blur | weather | digital | extra |" in to_markdown(frame)
    assert "| net | 52.00 | 20.00 | 40.00 | 60.00 | 80.00 | 10.00 |" in to_markdown(frame)


def test_mean_corruption_error_against_a_named_baseline(store_model: Store, tmp_path: Path) -> None:
    store_model("base", ALL, cells=all_cells(lambda name, severity: 0.5))
    store_model("part", ALL, cells={("fog", 1): 0.5})
    out = store_model("net", ALL, cells=all_cells(lambda name, severity: 0.75 if name in GROUPS["noise"] else 0.6))
    frame = build_leaderboard([out], mce_baseline="base").set_index("model")
    assert frame.loc["base", "mce"] == 100
    assert frame.loc["net", "mce"] == pytest.approx(100 * (3 * 0.5 + 12 * 0.8) / 15)
    assert np.isnan(frame.loc["part", "mce"])
    write_leaderboard(frame.reset_index(), tmp_path)
    pd.testing.assert_frame_equal(read_leaderboard(tmp_path / "leaderboard.csv"), frame.reset_index())
    assert "mCE against base" in (tmp_path / "leaderboard.md").read_text()
    assert "mce" not in build_leaderboard([out]).columns
    with pytest.raises(AdvdpnpError, match=r"no model called .bas. here.* choose one of base, net"):
        build_leaderboard([out], mce_baseline="bas")


def mce_of(out: Path, baseline: str = "base") -> dict[str, tuple[float, str]]:
    frame = build_leaderboard([out], mce_baseline=baseline)
    return {row["model"]: (row["mce"], row["mce_note"]) for _, row in frame.iterrows()}


def test_official_and_regenerated_corruptions_never_meet(store_model: Store) -> None:
    out = store_model("base", ALL, cells=all_cells(lambda name, severity: 0.5))
    store_model("net", ALL, cells=all_cells(lambda name, severity: 0.6), source="cifar10-c")
    found = mce_of(out)
    assert found["base"] == (100, "")
    assert np.isnan(found["net"][0])
    assert found["net"][1] == "judged on cifar10-c, base on cifar10-c (regenerated)"
    frame = build_leaderboard([out], mce_baseline="base")
    assert "No mCE for net: judged on cifar10-c, base on cifar10-c (regenerated)." in to_markdown(frame)
    store_model("net", ALL, cells={("fog", 1): 0.1})
    row = build_leaderboard([out]).set_index("model").loc["net"]
    assert (row["corruption_source"], row["corruptions"]) == ("cifar10-c", 60)


def test_an_mce_is_over_the_images_of_the_baseline_alone(store_model: Store) -> None:
    store_model("base", ALL, cells=all_cells(lambda name, severity: 0.5))
    store_model("same", ALL, cells=all_cells(lambda name, severity: 0.75))
    out = store_model("fewer", ALL, cells=all_cells(lambda name, severity: 0.75), n=100)
    found = mce_of(out)
    assert found["same"] == (50, "")
    assert np.isnan(found["fewer"][0])
    assert found["fewer"][1] == "judged on 100 images, base on 200, not the same"


def test_an_mce_is_over_the_same_corruptions_alone(store_model: Store) -> None:
    store_model("base", ALL, cells=all_cells(lambda name, severity: 0.5))
    out = store_model("other", ALL, cells=all_cells(lambda name, severity: 0.75), corruption_seed=1)
    found = mce_of(out)
    assert np.isnan(found["other"][0])
    assert found["other"][1] == "judged on corruptions of another seed or version than base"


def test_an_mce_against_a_baseline_without_errors_is_no_number(store_model: Store) -> None:
    store_model("base", ALL, cells=all_cells(lambda name, severity: 1.0 if name in ("fog", "snow") else 0.5))
    out = store_model("net", ALL, cells=all_cells(lambda name, severity: 1.0))
    for mce, why in mce_of(out).values():
        assert np.isnan(mce)
        assert why == "base makes no error on snow, fog, and nothing can be relative to that"
    assert mce_of(out, "net")["net"][1].startswith("net makes no error on gaussian_noise, shot_noise")


def test_the_terminal_shows_what_the_markdown_says_of_corruptions(
    store_model: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store_model("base", ALL, cells=all_cells(lambda name, severity: 0.5))
    out = store_model("net", ALL, cells=all_cells(lambda name, severity: 0.75), n=100)
    store_model("net", {"clean": 0.9}, n=200)
    assert run(["leaderboard", str(out), "--mce-baseline", "base", "--out", str(tmp_path / "table")]) == 0
    shown = capsys.readouterr().out
    head, *lines = shown.splitlines()
    assert head.split()[-4:] == ["corruptions", "mce", "n", "flags"]
    assert next(line for line in lines if line.startswith("base")).split()[-3:] == ["50.00", "100.00", "200"]
    assert "Corruptions were judged on fewer images than n: 100." in shown
    (source,) = set(build_leaderboard([out])["corruption_source"]) - {""}
    assert f"Corruptions: {source}." in shown
    assert "No mCE for net: judged on 100 images, base on 200, not the same." in shown


def test_the_terminal_shows_types_that_no_mean_tells_of(
    store_model: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = {("fog", severity): 0.1 * severity for severity in SEVERITIES}
    store_model("whole", ALL, cells=all_cells(lambda name, severity: 0.5))
    out = store_model("fog alone", ALL, cells=cells)
    assert run(["leaderboard", str(out), "--out", str(tmp_path / "table")]) == 0
    shown = capsys.readouterr().out
    assert [line.split() for line in shown.splitlines() if line.startswith(("mean of", "fog  "))] == [
        ["mean", "of", "five", "severities", "fog", "alone"],
        ["fog", "30.00"],
    ]


def test_json_holds_the_table_and_says_what_each_column_means(store_model: Store, tmp_path: Path) -> None:
    cells = all_cells(lambda name, severity: 0.5)
    store_model("net_1", ALL, cells=cells)
    frame = build_leaderboard([store_model("other", {"clean": 0.5, "fgsm": 0.1})])
    write_leaderboard(frame, tmp_path)
    found = json.loads((tmp_path / "leaderboard.json").read_text())
    assert list(found["columns"]) == list(frame.columns)
    assert found["columns"]["pgd-20"] == "percent of the n images that the attack pgd-20 leaves right"
    assert found["columns"]["worst_case_low"] == "low end of the 95 % Wilson interval of worst_case"
    assert found["columns"]["corruption:fog"] == "mean accuracy in percent over the five severities of fog"
    for stored, row in zip(found["rows"], frame.to_dict("records"), strict=True):
        for name, value in row.items():
            assert stored[name] is None if pd.isna(value) else stored[name] == pytest.approx(value), name


def test_no_column_is_taken_for_an_attack(store_model: Store) -> None:
    frame = build_leaderboard(
        [store_model("net", ALL, cells=all_cells(lambda name, severity: 0.5))], mce_baseline="net"
    )
    attacks = {name for name in frame if meaning_of(name).startswith("percent of the n images that the attack")}
    assert attacks == set(ALL) - {"clean"}


def test_latex_is_written_beside_the_other_tables(store_model: Store, tmp_path: Path) -> None:
    frame = build_leaderboard([store_model("a", ALL)])
    write_leaderboard(frame, tmp_path)
    assert (tmp_path / "leaderboard.tex").read_text() == to_latex(frame)


def test_rows_that_may_be_below_the_best_by_chance_are_marked(store_model: Store, tmp_path: Path) -> None:
    store_model("best", {"clean": 0.9, "fgsm": 0.5})
    store_model("near", {"clean": 0.9, "fgsm": 0.485})
    store_model("far", {"clean": 0.9, "fgsm": 0.3})
    store_model("fewer images", {"clean": 0.9, "fgsm": 0.49}, n=100)
    out = store_model("other attacks", {"clean": 0.9, "fgsm": 0.8, "cw": 0.49})
    frame = build_leaderboard([out]).set_index("model")
    p = frame["worst_case_p"]
    assert p[["best", "fewer images", "other attacks"]].isna().all()
    assert p["near"] == 0.25  # 3 images of 200, all on one side
    assert p["far"] < 1e-6
    text = to_markdown(frame.reset_index())
    assert "| 48.50° |" in text
    assert text.count("48.50°") == 1
    assert "° not significantly below the best (exact McNemar test, Holm's p >= 0.05)." in text
    assert "30.00°" not in text
    assert r"48.50$^\circ$" in to_latex(frame.reset_index())


def test_seeds_radii_and_data_are_never_compared(store_model: Store) -> None:
    store_model("a", {"clean": 0.9, "fgsm": 0.5})
    store_model("b", {"clean": 0.9, "fgsm": 0.4}, seed=1)
    store_model("c", {"clean": 0.9, "fgsm": 0.4}, eps="4/255")
    out = store_model("d", {"clean": 0.9, "fgsm": 0.4}, norm="l2", eps="8/255")
    assert build_leaderboard([out])["worst_case_p"].isna().all()


def test_two_that_break_equally_many_tie(store_model: Store) -> None:
    store_model("a", {"clean": 0.9, "fgsm": 0.5})
    out = store_model("b", {"clean": 0.9, "fgsm": 0.5})
    frame = build_leaderboard([out])
    assert sorted(frame["worst_case_p"].fillna(-1)) == [-1, 1]
    assert to_markdown(frame).count("**50.00**") == 4


def test_corruptions_judged_on_fewer_images_say_so(store_model: Store) -> None:
    cells = all_cells(lambda name, severity: 0.5)
    store_model("net", {"clean": 0.9}, n=200)
    out = store_model("net", {"fgsm": 0.5, "clean": 1.0}, n=100, cells=cells)
    store_model("net", {"clean": 0.9}, n=200)
    frame = build_leaderboard([out])
    assert frame["n"].tolist() == [200, 100]  # without attacks first
    assert set(frame["corruptions_n"]) == {100}
    assert "Corruptions were judged on fewer images than n: 100." in to_markdown(frame)
    assert "fewer images" not in to_markdown(frame[frame["n"] == 100])


def test_official_and_regenerated_corruptions_stand_in_different_tables(store_model: Store) -> None:
    store_model("a", ALL, cells=all_cells(lambda name, severity: 0.5))
    out = store_model("b", ALL, cells=all_cells(lambda name, severity: 0.6), source="cifar10-c")
    text = to_markdown(build_leaderboard([out]))
    assert text.count("corruptions: cifar10-c;") == text.count("corruptions: cifar10-c (regenerated);") == 1
    assert "**60.00**" not in text


@pytest.mark.parametrize("column", columns._MEANINGS)
def test_no_attack_can_be_called_like_another_column(column: str) -> None:
    with pytest.raises(AdvdpnpError, match="needs another name"):
        check_name(column)
