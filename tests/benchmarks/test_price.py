"""The table of prices follows from the stored verdicts, and says what it says."""

from pathlib import Path

import pandas as pd
import pytest

import advdpnp
from advdpnp.base.errors import AdvdpnpError
from benchmarks.price import __main__ as script
from benchmarks.price.figure import draw
from benchmarks.price.search import COLUMNS, SEARCHED
from benchmarks.price.table import AUTOATTACK, STORED, all_rows, rows_of, summary

RESULTS = Path(advdpnp.__file__).resolve().parent.parent / "results"
FOLDER = RESULTS / "price"


def verdicts(broken, passes, clean_wrong=()):
    """Verdicts on ten images: indices of those that break, and what every image costs."""
    frame = pd.DataFrame({"sample": range(10), "label": 3, "clean_prediction": 3})
    frame.loc[list(clean_wrong), "clean_prediction"] = 4
    frame["success"] = frame["sample"].isin([*broken, *clean_wrong])
    return frame.assign(forwards=passes - 1, backwards=1, stage=0).set_index("sample")


def test_differences_and_prices_are_counted_on_the_images_that_all_attacks_saw():
    attacks = {"quick": verdicts([1, 2, 9], 40, [0]), AUTOATTACK: verdicts([1, 3, 4], 400, [0]).iloc[:9]}
    rows = rows_of("net", attacks).set_index("attack")
    assert rows.loc["quick", ["n", "robust", "missed", "beyond"]].tolist() == [9, 100 * 6 / 9, 2, 1]
    assert rows.loc["quick", "difference"] == pytest.approx(100 / 9)
    assert rows.loc["quick", ["passes", "share", "most"]].tolist() == [40, 0.1, 40]
    assert rows.loc[AUTOATTACK, ["difference", "missed", "beyond", "share"]].tolist() == [0, 0, 0, 1]


def test_verdicts_on_other_images_are_refused():
    with pytest.raises(AdvdpnpError, match="quick and autoattack saw other images of net"):
        rows_of("net", {"quick": verdicts([1], 40), AUTOATTACK: verdicts([1], 400, [5])})


def test_the_summary_takes_each_net_once_and_the_figure_is_drawn(tmp_path):
    one = {"quick": verdicts([1], 40), AUTOATTACK: verdicts([1, 2], 400)}
    two = {"quick": verdicts([1, 2], 60), AUTOATTACK: verdicts([1, 2], 600)}
    rows = pd.concat([rows_of("one", one), rows_of("two", two)], ignore_index=True)
    table = summary(rows).set_index("attack")
    assert list(table.index) == ["quick", AUTOATTACK]
    assert table.loc["quick", ["nets", "images", "difference", "worst", "missed", "most"]].tolist() == [
        2,
        20,
        5,
        10,
        1,
        60,
    ]
    draw(rows, summary(rows), tmp_path / "price.png")
    assert (tmp_path / "price.png").stat().st_size > 10_000
    assert "| two" in script.as_text(rows, summary(rows))


def test_the_committed_table_follows_from_the_stored_verdicts_and_holds_what_the_documentation_says():
    searched = pd.read_parquet(FOLDER / "verdicts.parquet")
    assert list(searched) == ["model", "attack", *COLUMNS]
    assert set(SEARCHED) - {"strong"} <= set(searched["attack"]) <= set(SEARCHED)
    rows = all_rows(searched, RESULTS)
    stored = pd.read_csv(FOLDER / "price.csv")
    pd.testing.assert_frame_equal(rows, stored, check_exact=False, atol=1e-3, check_dtype=False)
    assert script.as_text(rows, summary(rows)) == (FOLDER / "price.md").read_text(encoding="utf-8")
    assert (rows["n"] >= 200).all()
    assert set(STORED) <= set(rows["attack"])
    table = summary(rows).set_index("attack")
    assert table.loc["quick", "nets"] == 10
    assert table.loc["quick", "share"] < 1 / 20
    assert rows[rows["attack"] == "quick"]["difference"].max() <= 0.5
    assert table.loc["mm-5", "share"] < 0.03 < table.loc["mm-9", "share"]
    guide = (RESULTS.parent / "docs" / "tutorials" / "evaluate.md").read_text(encoding="utf-8")
    for attack in ("mm-3", "quick", "mm-5", "pgd-20", "cw", "pma"):
        assert f"{100 * table.loc[attack, 'share']:.1f} %" in guide, attack
    for attack in ("mm-3", "quick", "pgd-20", "cw"):
        assert f"{table.loc[attack, 'difference']:.2f}, {table.loc[attack, 'worst']:.1f}" in guide, attack
    assert f"{table.loc['apgd-ce', 'difference']:.2f} points above" in guide
    assert f"misses {table.loc['mm-3', 'missed']} of the {table.loc['mm-3', 'images']:,} images" in guide
    assert table.loc["pma", "missed"] == 1
