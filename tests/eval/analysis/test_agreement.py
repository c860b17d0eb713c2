from collections.abc import Callable
from pathlib import Path

import numpy as np

from advdpnp.eval.analysis.agreement import MEANINGS, agreement, agreement_table
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.store.reader import find_results

Store = Callable[..., Path]


def row_of(store_model: Store, *, clean: float = 1.0, **success: list[int]):
    """Attacks that break exactly these of ten images."""
    robust, others = {"clean": clean}, {}
    for name, broken in success.items():
        attack = name.replace("_", "-")
        robust[attack], others[attack] = 1.0, {"success": np.isin(np.arange(10), broken)}
    out = store_model("net", robust, n=10, others=others)
    (row,) = make_rows(find_results([out]))
    return row


def test_shares_are_of_what_the_attack_of_the_line_breaks(store_model: Store) -> None:
    table = agreement(row_of(store_model, fgsm=[0, 1], cw=[1, 2, 3, 4], square=[]))
    assert list(table.columns) == ["fgsm", "cw", "square", "broken", "alone"]
    assert table.loc["fgsm", ["fgsm", "cw", "square"]].tolist() == [100, 50, 0]
    assert table.loc["cw", ["fgsm", "cw", "square"]].tolist() == [25, 100, 0]
    assert table.loc["square", ["fgsm", "cw", "square"]].isna().all()
    assert table["broken"].tolist() == [2, 4, 0]
    assert table["alone"].tolist() == [1, 3, 0]


def test_clean_mistakes_make_no_attacks_agree(store_model: Store) -> None:
    table = agreement(row_of(store_model, clean=0.5, fgsm=[0], cw=[1]))
    assert table["broken"].tolist() == [1, 1]
    assert table.loc["fgsm", "cw"] == 0


def test_one_attack_agrees_with_itself_and_none_gives_an_empty_table(store_model: Store) -> None:
    table = agreement(row_of(store_model, fgsm=[0, 1]))
    assert table.loc["fgsm"].tolist() == [100, 2, 2]
    (row,) = make_rows(find_results([store_model("other", {"clean": 0.5}, n=10)]))[1:]
    assert agreement(row).empty


def test_the_long_table_has_a_line_per_pair(store_model: Store) -> None:
    row = row_of(store_model, fgsm=[0, 1], cw=[1, 2, 3, 4], square=[])
    table = agreement_table([row])
    assert list(table.columns) == list(MEANINGS)
    assert len(table) == 3 * 2
    line = table[(table["attack"] == "cw") & (table["other"] == "fgsm")].iloc[0]
    assert (line["share"], line["broken"], line["alone"], line["model"]) == (25.0, 4, 3, "net")
    assert agreement_table([]).columns.tolist() == list(MEANINGS)
