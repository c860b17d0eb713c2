from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from advdpnp.base.statistics import wilson
from advdpnp.eval.analysis.per_class import MEANINGS, per_class_accuracy, per_class_table
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.report.leaderboard import build_leaderboard
from advdpnp.eval.store.reader import find_results

Store = Callable[..., Path]


def test_every_class_has_its_own_accuracies(store_model: Store) -> None:
    hard = np.arange(40) % 10 == 3  # every image of class three, and nothing else
    out = store_model("net", {"clean": 1.0, "cw": 1.0, "fgsm": 1.0}, n=40, others={"cw": {"success": hard}})
    (row,) = make_rows(find_results([out]))
    table = per_class_accuracy(row)
    assert table.index.name == "class"
    assert list(table.index) == ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert list(table.columns) == ["clean", "fgsm", "cw", "worst_case", "n"]
    assert table.loc["three"].tolist() == [100, 100, 0, 0, 4]
    assert table.drop("three")["worst_case"].eq(100).all()
    assert table["n"].sum() == 40


def test_classes_add_up_to_the_row(store_model: Store) -> None:
    out = store_model("net", {"clean": 0.83, "fgsm": 0.51, "pgd-20": 0.37}, n=157)
    (row,) = make_rows(find_results([out]))
    table, line = per_class_accuracy(row), build_leaderboard([out]).iloc[0]
    for name in ("clean", "fgsm", "pgd-20", "worst_case"):
        right = (table[name] * table["n"] / 100).round().sum()
        assert round(100 * right / 157, 2) == line[name], name


def test_classes_without_images_or_names_are_no_error(store_model: Store) -> None:
    out = store_model("net", {"clean": 0.5}, n=3)
    (row,) = make_rows(find_results([out]))
    table = per_class_accuracy(row)
    assert list(table.index) == ["zero", "one", "two"]
    assert list(table.columns) == ["clean", "n"]
    nameless = replace(row, model=replace(row.model, class_names=("a",)))
    assert list(per_class_accuracy(nameless).index) == ["a", "1", "2"]


def test_the_long_table_names_its_row_and_carries_intervals(store_model: Store) -> None:
    store_model("a", {"clean": 1.0, "fgsm": 0.5}, n=20)
    out = store_model("b", {"clean": 1.0}, n=20)
    table = per_class_table(make_rows(find_results([out])))
    assert list(table.columns) == list(MEANINGS)
    assert len(table) == 10 * 3 + 10
    (line,) = table[(table["model"] == "a") & (table["class"] == "two") & (table["attack"] == "fgsm")].to_dict(
        "records"
    )
    low, high = wilson(1, 2)
    assert (line["accuracy"], line["n"], line["eps_text"], line["seed"]) == (50.0, 2, "8/255", 0)
    assert (line["low"], line["high"]) == (round(100 * low, 2), round(100 * high, 2))
    clean = table[table["model"] == "b"]
    assert set(clean["norm"]) == {""}
    assert clean["seed"].isna().all()
    keys = ["model", "weights_hash", "dataset", "data_hash", "norm", "eps_text"]
    joined = clean.merge(build_leaderboard([out]), on=keys, how="left", suffixes=("", "_row"))
    assert joined["clean"].eq(100).all()


def test_no_rows_give_an_empty_table() -> None:
    pd.testing.assert_index_equal(per_class_table([]).columns, pd.Index(list(MEANINGS)))


@pytest.mark.parametrize("column", list(MEANINGS))
def test_every_column_says_what_it_is(column: str) -> None:
    assert len(MEANINGS[column]) > 8
