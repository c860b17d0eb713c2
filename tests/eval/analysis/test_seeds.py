import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from advdpnp.corruption import BENCHMARK, SEVERITIES
from advdpnp.eval.analysis.columns import meaning_of
from advdpnp.eval.analysis.seeds import EVALUATION, TRAINING, summarise_seeds
from advdpnp.eval.report.exports.latex import to_latex
from advdpnp.eval.report.leaderboard import build_leaderboard, write_leaderboard
from advdpnp.eval.report.markdown import to_markdown

Store = Callable[..., Path]


def robust(share: float) -> dict[str, float]:
    return {"clean": 0.9, "fgsm": share}


def test_nets_of_one_recipe_are_summarised_over_their_seeds(store_model: Store) -> None:
    for seed, share in enumerate((0.4, 0.5, 0.42)):
        out = store_model(f"net-{seed}", robust(share), method="pgd-at", recipe="aa", training_seed=seed)
    summary = summarise_seeds(build_leaderboard([out]))
    assert len(summary) == 1
    row = summary.iloc[0]
    assert (row["over"], row["method"], row["architecture"], row["seeds"]) == (TRAINING, "pgd-at", "small-cnn", 3)
    assert row["group"] == "pgd-at"
    assert row["models"] == "net-0; net-1; net-2"
    values = [40.0, 50.0, 42.0]
    found = row[["fgsm_mean", "fgsm_std", "fgsm_min", "fgsm_max"]].tolist()
    assert found == pytest.approx([44.0, np.std(values, ddof=1), 40, 50], abs=0.005)
    assert row["clean_std"] == 0
    assert row["against"] == ""


def test_results_that_do_not_tell_their_recipe_go_by_name(store_model: Store) -> None:
    for name in ("cnn-a-s0", "cnn-a-s1", "cnn-b-s0", "lonely", "cnn-a-s7-last"):
        out = store_model(name, robust(0.4), method="ce")
    store_model("cnn-a-s2", robust(0.4), method="other")
    summary = summarise_seeds(build_leaderboard([out]))
    assert summary[["group", "models", "seed_values"]].to_numpy().tolist() == [
        ["cnn-a", "cnn-a-s0; cnn-a-s1", "0 1"]
    ]  # fmt: skip


def test_what_differs_in_more_than_the_seed_is_not_put_together(store_model: Store) -> None:
    store_model("net-s0", robust(0.4), recipe="aa", training_seed=0)
    store_model("net-s1", robust(0.4), recipe="bb", training_seed=1)  # another recipe
    store_model("net-s2", robust(0.4), recipe="aa", training_seed=2, eps="4/255")
    store_model("net-s3", robust(0.4), recipe="aa", training_seed=3, n=100)
    store_model("net-s4", robust(0.4), recipe="aa", training_seed=4, version=2)
    out = store_model("net-s5", robust(0.4), recipe="aa", training_seed=5, seed=1)
    assert summarise_seeds(build_leaderboard([out])).empty


def test_the_shape_of_model_calls_separates_nothing(store_model: Store) -> None:
    store_model("net-s0", robust(0.4), static_batch_size=64)
    out = store_model("net-s1", robust(0.4), static_batch_size=128)
    assert summarise_seeds(build_leaderboard([out]))["seeds"].tolist() == [2]


def test_best_and_last_of_a_run_are_not_two_seeds(store_model: Store) -> None:
    for seed in (0, 1):
        store_model(f"run-s{seed}", robust(0.4), recipe="aa", training_seed=seed)
        out = store_model(f"run-s{seed}-last", robust(0.3), recipe="aa", training_seed=seed)
    summary = summarise_seeds(build_leaderboard([out]))
    assert summary.set_index("models")["fgsm_mean"].to_dict() == {"run-s0; run-s1": 40, "run-s0-last; run-s1-last": 30}


def test_seeds_of_an_attack_are_another_spread(store_model: Store) -> None:
    for seed, share in ((0, 0.4), (1, 0.41)):
        out = store_model("net-s0", robust(share), seed=seed)
    frame = build_leaderboard([out])
    summary = summarise_seeds(frame)
    assert summary[["over", "group", "seeds", "fgsm_mean"]].to_numpy().tolist() == [[EVALUATION, "net-s0", 2, 40.5]]
    text = to_markdown(frame)
    assert "± standard deviation over evaluation seeds (one net, attacked again)" in text
    assert "training seeds" not in text


def test_two_methods_are_compared_over_their_seeds(store_model: Store) -> None:
    shares = {"good": (0.5, 0.55, 0.52), "bad": (0.40, 0.45, 0.44)}
    for method, values in shares.items():
        for seed, share in enumerate(values):
            out = store_model(f"{method}-s{seed}", robust(share), method=method)
    frame = build_leaderboard([out])
    summary = summarise_seeds(frame).set_index("group")
    expected = ttest_ind([40, 45, 44], [50, 55, 52], equal_var=False)
    interval = expected.confidence_interval(0.95)
    bad = summary.loc["bad"]
    assert summary["against"].tolist() == ["good", "good"]
    assert bad["fgsm_difference"] == pytest.approx(43 - 157 / 3, abs=0.005)
    assert bad[["fgsm_difference_low", "fgsm_difference_high"]].tolist() == pytest.approx(list(interval), abs=0.005)
    assert bad["fgsm_difference_p"] == pytest.approx(expected.pvalue, abs=1e-6)
    assert pd.isna(bad["clean_difference_p"])  # no spread at all: nothing can be said
    assert pd.isna(summary.loc["good", "fgsm_difference"])
    text = to_markdown(frame)
    assert "| good | 3 | 90.00 ± 0.00 | 52.33 ± 2.52 | 52.33 ± 2.52 |" in text
    assert "difference of the means to good (3 seeds)" in text
    assert f"| bad | 3 | fgsm | -9.33 | {interval.low:+.2f} to {interval.high:+.2f} | {expected.pvalue:.2f} |" in text
    assert r"\textbf{52.33} $\pm$ 2.52" in to_latex(frame)


def test_corruptions_of_other_images_are_not_averaged(store_model: Store) -> None:
    cells = {(name, severity): 0.5 for name in BENCHMARK for severity in SEVERITIES}
    store_model("net-s0", robust(0.4), cells=cells)
    out = store_model("net-s1", robust(0.4), cells=cells, source="cifar10-c")
    row = summarise_seeds(build_leaderboard([out])).iloc[0]
    assert row["fgsm_mean"] == 40
    assert pd.isna(row["corruptions_mean"])


def test_seeds_are_written_where_there_are_some_and_stale_ones_go(store_model: Store, tmp_path: Path) -> None:
    store_model("net-s0", robust(0.4))
    one = build_leaderboard([store_model("net-s0", robust(0.4))])
    two = build_leaderboard([store_model("net-s1", robust(0.5))])
    write_leaderboard(two, tmp_path)
    stored = pd.read_csv(tmp_path / "seeds.csv")
    assert stored["fgsm_mean"].tolist() == [45]
    content = json.loads((tmp_path / "leaderboard.json").read_text())["seeds"]
    assert list(content["columns"]) == list(stored.columns)
    assert content["rows"][0]["fgsm_std"] == pytest.approx(7.07)
    write_leaderboard(one, tmp_path)
    assert not (tmp_path / "seeds.csv").exists()
    assert "seeds" not in json.loads((tmp_path / "leaderboard.json").read_text())
    (tmp_path / "seeds.csv").write_text("somebody's own")
    write_leaderboard(one, tmp_path)
    assert (tmp_path / "seeds.csv").read_text() == "somebody's own"


def test_every_column_of_the_summary_says_what_it_is(store_model: Store) -> None:
    for method in ("a", "b"):
        for seed in (0, 1):
            out = store_model(f"{method}-s{seed}", robust(0.4 + seed / 10), method=method)
    for column in map(str, summarise_seeds(build_leaderboard([out]))):
        assert "attack fgsm" not in meaning_of(column)
        assert not meaning_of(column).startswith("percent of the n images that the attack")
    assert meaning_of("fgsm_std") == "standard deviation of fgsm over the seeds (ddof 1), in points"
    assert "Welch" in meaning_of("worst_case_difference_low")
