"""What the terminal tells of ensembles and of minimum-norm attacks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from advdpnp.cli import run
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.analysis.search_notes import search_notes
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
        "apgd-ce", "apgd-dlr-targeted", "fab", "square",
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
def test_a_minimum_norm_attack_tells_its_distances(store_model: Store, found: int, words: str) -> None:
    norm = np.where(np.arange(200) < found, 0.25, np.inf)
    out = store_model(
        "net", {"clean": 0.9, "cw-l2": 0.9}, norm="l2", eps="0.5", others={"cw-l2": {"norm": norm, "success": norm < 1}}
    )
    assert notes(out) == [f"net, l2 0.5: cw-l2 {words}."]
