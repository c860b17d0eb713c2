from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.statistics import mcnemar, paired_difference
from advdpnp.cli import run
from advdpnp.corruption import BENCHMARK, SEVERITIES
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.analysis.significance import compare_models
from advdpnp.eval.report.leaderboard import build_leaderboard
from advdpnp.eval.report.markdown import to_markdown
from advdpnp.eval.store.reader import find_results

Store = Callable[..., Path]
A = {"clean": 0.9, "fgsm": 0.5, "cw": 0.4}
B = {"clean": 0.8, "fgsm": 0.55, "cw": 0.4}


def compared(out: Path, a: str = "a", b: str = "b", columns: list[str] | None = None) -> pd.DataFrame:
    return compare_models(make_rows(find_results([out])), a, b, columns)


def test_two_models_are_compared_image_by_image(store_model: Store) -> None:
    rng = np.random.default_rng(1)
    wrong = {name: {"success": rng.random(200) < 0.5} for name in ("fgsm", "cw")}
    store_model("a", A, others=wrong)
    frame = compared(store_model("b", B)).set_index("column")
    assert list(frame.index) == ["clean", "fgsm", "cw", "worst_case"]
    places = np.arange(200)
    a, b = (places < 180) & ~wrong["fgsm"]["success"], places < 110
    low, high = paired_difference(int((a & b).sum()), int((a & ~b).sum()), int((b & ~a).sum()), int((~a & ~b).sum()))
    row = frame.loc["fgsm"]
    assert row[["a", "b", "n"]].tolist() == pytest.approx([100 * a.mean(), 55, 200])
    assert row["difference"] == pytest.approx(100 * (a.mean() - b.mean()))
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((100 * low, 100 * high))
    assert (row["only_a"], row["only_b"]) == ((a & ~b).sum(), (b & ~a).sum())
    assert row["p"] == mcnemar(int((a & ~b).sum()), int((b & ~a).sum()))
    assert (frame["p_holm"] >= frame["p"]).all()
    assert frame["p_holm"].min() == pytest.approx(min(1, 4 * frame["p"].min()))
    assert frame.loc["clean", ["difference", "only_a", "only_b"]].tolist() == [10, 20, 0]


def test_the_mean_over_corruptions_takes_images_not_cells_as_observations(store_model: Store) -> None:
    def cells(share: float) -> dict[tuple[str, int], float]:
        return {(name, s): share - s / 10 for name in BENCHMARK for s in SEVERITIES}

    store_model("a", {"clean": 0.9}, cells=cells(0.9))
    row = compared(store_model("b", {"clean": 0.9}, cells=cells(0.7))).set_index("column").loc["corruptions"]
    images = np.arange(200)[:, None]
    right = [(images < np.array([round((share - s / 10) * 200) for s in SEVERITIES])).mean(1) for share in (0.9, 0.7)]
    expected = ttest_1samp(100 * (right[0] - right[1]), 0)
    assert (row["a"], row["b"], row["difference"]) == pytest.approx((60, 40, 20))
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(tuple(expected.confidence_interval()))
    assert pd.isna(row["only_a"])


REFUSED = [
    ({"n": 100}, "different images (200 and 100 of digits)"),
    ({"eps": "4/255"}, "threat models differ (linf 8/255 and linf 4/255)"),
    ({"norm": "l2"}, "threat models differ (linf 8/255 and l2 8/255)"),
    ({"seed": 1}, "seeded differently (0 and 1)"),
    ({"version": 2}, "'fgsm' was not the same attack for both"),
    ({"source": "cifar10-c"}, "corrupted images differ (cifar10-c (regenerated) and cifar10-c)"),
]
CELLS = {(name, severity): 0.5 for name in BENCHMARK for severity in SEVERITIES}


@pytest.mark.parametrize(("difference", "said"), REFUSED, ids=[next(iter(each[0])) for each in REFUSED])
def test_what_cannot_be_compared_is_refused_in_one_sentence(
    difference: dict[str, object], said: str, store_model: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = CELLS if "source" in difference else {}
    store_model("a", A, cells=cells)
    out = store_model("b", B, cells=cells, **difference)
    assert run(["compare", "a", "b", str(out)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.startswith("advdpnp: a and b cannot be compared: ")
    assert told.count("\n") == 1


def test_other_data_is_refused(store_model: Store) -> None:
    store_model("a", A)
    rows = make_rows(find_results([store_model("b", B)]))
    object.__setattr__(rows[1], "data", "e" * 64)
    with pytest.raises(AdvdpnpError, match="different data \\(digits dddddddd and digits eeeeeeee\\)"):
        compare_models(rows, "a", "b")


def test_columns_that_can_be_compared_may_be_named(store_model: Store) -> None:
    store_model("a", A, cells=CELLS)
    out = store_model("b", B, cells=CELLS, source="cifar10-c")
    with pytest.raises(AdvdpnpError, match="compare only --columns clean,fgsm,cw,worst_case"):
        compared(out)
    assert compared(out, columns=["cw", "clean"])["column"].tolist() == ["clean", "cw"]
    with pytest.raises(AdvdpnpError, match="not both have the column 'pgd-20'; they share clean, fgsm"):
        compared(out, columns=["pgd-20"])


def test_a_worst_case_over_other_attacks_is_left_out_and_said(
    store_model: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store_model("a", A)
    out = store_model("b", {"clean": 0.8, "fgsm": 0.55})
    assert run(["compare", "a", "b", str(out), "--out", str(tmp_path / "ab.csv")]) == 0
    told = capsys.readouterr().out
    assert "linf 8/255: left out are cw (a alone), and so is worst_case" in told
    assert pd.read_csv(tmp_path / "ab.csv")["column"].tolist() == ["clean", "fgsm"]
    with pytest.raises(AdvdpnpError, match=r"worst_case is over different attacks \(fgsm, cw and fgsm\)"):
        compared(out, columns=["worst_case"])


def test_every_shared_threat_model_and_seed_is_compared(store_model: Store) -> None:
    for eps in ("8/255", "4/255"):
        store_model("a", A, eps=eps)
        out = store_model("b", B, eps=eps)
    store_model("a", A, eps="2/255")
    assert set(compared(out)["threat"]) == {"linf 8/255", "linf 4/255"}


def test_names_that_mean_nothing_or_two_things_are_told(store_model: Store) -> None:
    alone = store_model("net", A)
    with pytest.raises(AdvdpnpError, match=r"there is no model called 'nope' here, only net$"):
        compared(alone, "net", "nope")
    out = store_model("net", B, weights="f" * 64)
    store_model("other", B)
    with pytest.raises(AdvdpnpError, match="no model called 'othr' here; choose one of other"):
        compared(out, "othr", "net")
    with pytest.raises(AdvdpnpError, match=r"2 different models called 'net'; write net-.* or net-ffffffff"):
        compared(out, "net", "other")
    assert len(compared(out, "net-ffffffff", "other")) == 4
    with pytest.raises(AdvdpnpError, match="are the same weights"):
        compared(out, "other", "other")


def test_no_mark_stands_across_definitions_or_images(store_model: Store) -> None:
    """The row by another version has the best numbers, the one on fewer images too; neither is best."""
    store_model("first", {"clean": 0.9, "fgsm": 0.5})
    store_model("second", {"clean": 0.9, "fgsm": 0.49})
    store_model("other version", {"clean": 0.85, "fgsm": 0.7}, version=2)
    store_model("fewer", {"clean": 0.99, "fgsm": 0.8}, n=100)
    out = store_model("other shape", {"clean": 0.9, "fgsm": 0.495}, static_batch_size=64)
    frame = build_leaderboard([out])
    p = frame.set_index("model")["worst_case_p"]
    assert p[["first", "other version", "fewer"]].isna().all()
    assert p[["second", "other shape"]].notna().all()
    text = to_markdown(frame)
    assert "| first | **90.00** | **50.00** | **50.00** |" in text
    assert "| second | **90.00** | 49.00 | 49.00° |" in text
    assert "| other version† | 85.00 | 70.00 | 70.00 |" in text
    assert "| fewer† | 99.00 | 80.00 | 80.00 |" in text
    assert "fewer was judged on other images than the rest (n = 100)" in text
    assert "other version has fgsm, worst\\_case by another definition than the rest" in text


def test_marks_are_corrected_for_the_number_of_rivals(store_model: Store) -> None:
    """7 images of 200, all on one side, are p = .016: alone it is below the best, as the least of four it is not."""
    store_model("best", {"clean": 0.9, "fgsm": 0.5})
    out = store_model("near-0", {"clean": 0.9, "fgsm": 0.465})
    assert "°" not in to_markdown(build_leaderboard([out]))
    for i in range(1, 4):
        store_model(f"near-{i}", {"clean": 0.9, "fgsm": 0.465})
    frame = build_leaderboard([out]).set_index("model")
    assert frame.loc["near-0", ["worst_case_p", "worst_case_p_holm"]].tolist() == pytest.approx([1 / 64, 4 / 64])
    assert to_markdown(frame.reset_index()).count("46.50°") == 4
