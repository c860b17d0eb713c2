"""What the terminal tells of ensembles and of minimum-norm attacks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from advdpnp.cli import run
from advdpnp.eval.analysis.columns import meaning_of, read_leaderboard
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.analysis.search_notes import search_notes
from advdpnp.eval.report.html import to_html
from advdpnp.eval.report.leaderboard import build_leaderboard, write_leaderboard
from advdpnp.eval.report.markdown import to_markdown
from advdpnp.eval.store.reader import find_results

Store = Callable[..., Path]


def notes(out: Path) -> list[str]:
    (row,) = make_rows(find_results([out]))
    return list(search_notes(row))


def test_an_ensemble_tells_the_accuracy_after_each_stage(
    store_model: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = np.repeat([0, 1, 2, 3], 50)
    out = store_model("net", {"clean": 0.9, "autoattack": 0.0, "fgsm": 0.5}, others={"autoattack": {"stage": stage}})
    (note,) = notes(out)
    left = [float(part.split(" %")[0].split()[-1]) for part in note.split(", ") if " %" in part]
    assert [part.split("after ")[1].rstrip(".") for part in note.split(", ") if "after" in part] == [
        "apgd-ce", "apgd-t", "fab-t", "square",
    ]  # fmt: skip
    assert left == [65.0, 40.0, 15.0, 0.0]
    assert run(["leaderboard", str(out), "--out", str(tmp_path / "table")]) == 0
    assert note in capsys.readouterr().out


def test_an_ensemble_of_unknown_stages_tells_nothing(store_model: Store) -> None:
    out = store_model("net", {"clean": 0.9, "autoattack": 0.2}, others={"autoattack": {"stage": np.full(200, -1)}})
    assert notes(out) == []


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (180, "has distances of median 0.25, mean 0.25 (180 of 180 images)"),
        (50, "has distances of mean 0.25 (50 of 180 images)"),
        (0, "found no adversarial image"),
    ],
)
def test_a_minimum_norm_attack_tells_its_distances(store_model: Store, tmp_path: Path, found: int, words: str) -> None:
    norm = np.where(np.arange(200) < found, 0.25, np.inf)
    out = store_model(
        "net", {"clean": 0.9, "cw-l2": 0.9}, norm="l2", eps="0.5", others={"cw-l2": {"norm": norm, "success": norm < 1}}
    )
    assert notes(out) == [f"net, l2 0.5: cw-l2 {words}."]
    frame = build_leaderboard([out])
    (row,) = frame.to_dict("records")
    expected = [0.25 if found > 90 else np.nan, 0.25 if found else np.nan]
    columns = ["median_distance:cw-l2", "mean_distance:cw-l2"]
    assert [row[name] for name in columns] == pytest.approx(expected, nan_ok=True)
    write_leaderboard(frame, tmp_path)
    pd.testing.assert_frame_equal(read_leaderboard(tmp_path / "leaderboard.csv"), frame)
    assert meaning_of(columns[0]).startswith("median distance of the nearest images that cw-l2 found")
    assert ("| model | mean distance of cw-l2 |" in to_markdown(frame)) == (found == 50)
    page = to_html(frame, make_rows(find_results([out])))
    assert ("<dt>mean of cw-l2</dt><dd>0.2500</dd>" in page) == (found > 0)
