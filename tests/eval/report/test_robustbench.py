import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pandas as pd
import pytest

from advdpnp.base.errors import AdvdpnpError
from advdpnp.cli import run
from advdpnp.corruption import BENCHMARK, SEVERITIES
from advdpnp.eval.analysis.columns import meaning_of, read_leaderboard
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.report import robustbench as published
from advdpnp.eval.report.leaderboard import build_leaderboard, tabulate_rows, with_published, write_leaderboard
from advdpnp.eval.report.markdown import to_markdown
from advdpnp.eval.report.robustbench import PUBLISHED
from advdpnp.eval.store.reader import find_results

Store = Callable[..., Path]
ALL = {"clean": 0.9, "fgsm": 0.5, "autoattack": 0.35}
CELLS = {(name, severity): 0.5 for name in BENCHMARK for severity in SEVERITIES}


def beside(out: Path) -> pd.DataFrame:
    """The leaderboard of a folder, with the published rows."""
    rows = make_rows(find_results([out]))
    return with_published(tabulate_rows(rows), rows)


def test_published_rows_of_the_same_data_and_threat_model_stand_below_ours(store_model: Store, tmp_path: Path) -> None:
    frame = beside(store_model("net", ALL, dataset="cifar10"))
    theirs = frame[frame["source"] == PUBLISHED].set_index("model")
    assert len(theirs) > 50
    assert frame["source"].tolist()[0] == ""
    row = theirs.loc["Wong2020Fast"]  # Croce et al. 2021: 83.34 % clean, 43.21 % robust
    assert row[["clean", "worst_case", "n", "architecture", "venue"]].tolist() == [
        83.34, 43.21, 10_000, "PreActResNet-18", "ICLR 2020",
    ]  # fmt: skip
    assert row["url"] == "https://arxiv.org/abs/2001.03994"
    assert row["paper"] == "Fast is better than free: Revisiting adversarial training"
    assert theirs["norm"].unique().tolist() == ["linf"]
    assert theirs[["clean", "worst_case"]].notna().all(axis=None)
    assert theirs[["autoattack", "worst_case_p", "clean_low", "fgsm"]].isna().all(axis=None)
    write_leaderboard(frame, tmp_path)
    pd.testing.assert_frame_equal(read_leaderboard(tmp_path / "leaderboard.csv"), frame)
    assert len(json.loads((tmp_path / "leaderboard.json").read_text())["rows"]) == len(frame)


def test_people_see_ten_and_no_mark_across_the_two(store_model: Store) -> None:
    store_model("weaker", {"clean": 0.8, "fgsm": 0.4, "autoattack": 0.3}, dataset="cifar10")
    out = store_model("net", {"clean": 0.99, "fgsm": 0.98, "autoattack": 0.95}, dataset="cifar10")
    frame = build_leaderboard([out])
    before, after = to_markdown(frame), to_markdown(beside(out))
    assert after.startswith(before)
    ours, theirs = after[: len(before)], after[len(before) :]
    assert "**95.00**" in ours
    assert theirs.count(PUBLISHED) == 10
    assert "| net | small-cnn | 99.00 | 95.00 | 200 | ours |" in theirs
    assert "**9" not in theirs
    assert "Ours are on the first n images" in theirs
    assert "Never attacked" not in theirs


def test_published_rows_are_chosen_by_architecture_and_then_by_size(store_model: Store) -> None:
    frame = beside(store_model("net", ALL, dataset="cifar10"))
    for architecture, parameters, expected in (
        ("wrn-28-10", 36_000_000, "| WideResNet-28-10 |"), ("mine", 11_000_000, "ResNet-18 |"),
        ("mine", 250_000_000, "-16"),
    ):  # fmt: skip
        ours = frame["source"] == ""
        frame.loc[ours, ["architecture", "parameters"]] = architecture, parameters
        lines = [line for line in to_markdown(frame).splitlines() if PUBLISHED in line and line.startswith("| ")]
        assert len(lines) == 10
        assert lines[0].startswith("| [Bartoldson2024Adversarial\\_WRN-94-16](https://arxiv.org/abs/")
        assert all(expected in line for line in lines[1:]), lines


def test_ours_without_the_standard_autoattack_is_said_to_be_no_match(store_model: Store) -> None:
    store_model("half", {"clean": 0.9, "autoattack (bf16 search)": 0.4}, dataset="cifar10")
    store_model("package", {"clean": 0.9, "pyautoattack": 0.4}, dataset="cifar10")
    store_model("namesake", {"clean": 0.9, "torchattacks:AutoAttack": 0.4}, dataset="cifar10")
    out = store_model("net", {"clean": 0.9, "autoattack-few-classes": 0.4}, dataset="cifar10")
    text = to_markdown(beside(out))
    assert "Never attacked by the standard AutoAttack, so no match for theirs: namesake, net." in text


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({"norm": "l2", "eps": "0.5"}, 21),
        ({"eps": "4/255"}, 0),
        ({"dataset": "digits"}, 0),
        ({"eps": "0.0313725490196"}, 76),
    ],
)
def test_only_the_threat_models_of_robustbench_have_rows(
    arguments: dict[str, str], count: int, store_model: Store
) -> None:
    frame = beside(store_model("net", ALL, **{"dataset": "cifar10"} | arguments))
    assert (frame["source"] == PUBLISHED).sum() == count
    assert ("RobustBench publishes nothing under this threat model" in to_markdown(frame)) == (count == 0)


def test_published_corruptions_stand_beside_official_ones_alone(store_model: Store) -> None:
    clean = {"clean": 0.9}
    frame = beside(store_model("net", clean, dataset="cifar10", cells=CELLS))
    assert not (frame["source"] == PUBLISHED).any()
    assert "publishes accuracies on the official files" in to_markdown(frame)
    out = store_model("other", clean, dataset="cifar10", cells=CELLS, source="cifar10-c")
    frame = beside(out)
    theirs = frame[frame["source"] == PUBLISHED].set_index("model")
    assert theirs.loc["Standard", ["clean", "corruptions"]].tolist() == [94.78, 73.46]
    text = to_markdown(frame)
    official = text[text.index("**cifar10-c: compared") :]
    assert "| other | small-cnn | 90.00 | 50.00 | 200 | ours |" in official
    assert "| net |" not in official


def test_without_robustbench_one_sentence_says_how_to_get_it(
    store_model: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    out = store_model("net", ALL, dataset="cifar10")
    monkeypatch.setattr(published, "distribution", missing)
    assert run(["leaderboard", str(out), "--compare", "robustbench"]) == 2
    assert "not installed; pip install robustbench" in capsys.readouterr().err


def test_a_description_without_tables_is_told(store_model: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare:
        metadata = {"Description": "# RobustBench\n### CIFAR-10\n"}  # noqa: RUF012
        version = "9.9"

    monkeypatch.setattr(published, "distribution", lambda name: Bare())
    with pytest.raises(AdvdpnpError, match=r"robustbench 9\.9, as it is installed, does not tell"):
        beside(store_model("net", ALL, dataset="cifar10"))


def test_who_publishes_nothing_is_refused(store_model: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["leaderboard", str(store_model("net", ALL)), "--compare", "net"]) == 2
    assert "write --compare robustbench" in capsys.readouterr().err


def test_the_columns_of_published_rows_say_what_they_are() -> None:
    assert not [name for name in ("source", "venue", "paper", "url") if "attack" in meaning_of(name)]
