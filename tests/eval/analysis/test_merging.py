"""Properties of the leaderboard whatever the verdicts are: it depends on nothing else, and not on where they lie."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from advdpnp.eval.report.leaderboard import build_leaderboard
from advdpnp.eval.store.reader import find_results

Write = Callable[..., None]
ATTACKS = ("fgsm", "cw")
N = 12

VERDICTS = st.lists(st.booleans(), min_size=N, max_size=N).map(np.array)
MODELS = st.lists(
    st.fixed_dictionaries(
        {"clean": st.integers(0, N).map(lambda count: count / N)},
        optional=dict.fromkeys(ATTACKS, VERDICTS),
    ),
    min_size=1,
    max_size=3,
)
FEW = settings(max_examples=6, deadline=None)


def write(write_results: Write, out: Path, models: list[dict[str, Any]], names: list[str] | None = None) -> None:
    for place, model in enumerate(models):
        shares = {name: 1.0 if name != "clean" else share for name, share in model.items()}
        found = {name: {"success": broken} for name, broken in model.items() if name != "clean"}
        name = names[place] if names else f"net-s{place}"
        write_results(out, name, shares, n=N, others=found, weights=str(place) * 64)


@FEW
@given(MODELS, st.randoms(use_true_random=False))
def test_where_verdicts_lie_and_which_folder_comes_first_changes_nothing(
    write_results: Write, copy_evaluation: Any, models: list[dict[str, Any]], random: Any
) -> None:
    """Equal names, equal numbers and ties included."""
    with tempfile.TemporaryDirectory() as base:
        whole, parts = Path(base, "whole"), [Path(base, str(i)) for i in range(3)]
        write(write_results, whole, models, ["net"] * len(models))
        expected = build_leaderboard([whole])
        for unit in find_results([whole]):
            copy_evaluation(unit, random.choice(parts) / unit.folder.name)
        there = [part for part in parts if part.exists()]
        random.shuffle(there)
        pd.testing.assert_frame_equal(build_leaderboard(there), expected)


@FEW
@given(MODELS)
def test_a_folder_merged_with_itself_or_a_copy_is_itself(write_results: Write, models: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as base:
        out, copy = Path(base, "a"), Path(base, "b")
        write(write_results, out, models)
        expected = build_leaderboard([out])
        shutil.copytree(out, copy)
        for folders in ([out, out], [out, copy], [copy, out], [Path(base)]):
            pd.testing.assert_frame_equal(build_leaderboard(folders), expected)


@FEW
@given(MODELS)
def test_rows_are_a_function_of_verdicts_alone(
    write_results: Write, copy_evaluation: Any, models: list[dict[str, Any]]
) -> None:
    with tempfile.TemporaryDirectory() as base:
        out, moved = Path(base, "a"), Path(base, "b")
        write(write_results, out, models)
        frame = build_leaderboard([out])
        for unit in find_results([out]):  # what folders are called does not matter
            copy_evaluation(unit, moved / unit.folder.name[::-1])
        pd.testing.assert_frame_equal(build_leaderboard([moved]), frame)
        rows = frame.set_index("model")
        for place, model in enumerate(models):
            row = rows.loc[f"net-s{place}"]
            right = np.arange(N) < round(model["clean"] * N)
            assert row["clean"] == round(100 * right.mean(), 2)
            attacks = [name for name in ATTACKS if name in model]
            for name in attacks:
                assert row[name] == round(100 * (right & ~model[name]).mean(), 2)
            if attacks:
                robust = right & ~np.logical_or.reduce([model[name] for name in attacks])
                assert row["worst_case"] == round(100 * robust.mean(), 2)
                assert row["worst_case"] <= min(row[name] for name in ["clean", *attacks])
