"""A ``leaderboard.csv`` or a ``geometry.json`` that somebody has changed is read, or refused in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.analysis import columns
from advdpnp.eval.analysis.columns import read_leaderboard
from advdpnp.eval.report.html.sections.geometry import _panel
from advdpnp.eval.report.leaderboard import build_leaderboard

CELLS = st.sampled_from(
    ["", "x", "-1", "101", "nan", "inf", "1e300", "9" * 400, "=1+1", "'=1", '"', "a,b", "\x1b[31m", "a\nb",
     "x" * 200_000, "<NA>", "True", "0x10", "1_000", "é"]
)  # fmt: skip


@pytest.fixture
def table(store_model: Callable[..., Path], tmp_path: Path) -> Path:
    path = tmp_path / "leaderboard.csv"
    build_leaderboard([store_model("net", {"clean": 0.9, "fgsm": 0.5})]).to_csv(path, index=False)
    return path


@settings(max_examples=200, deadline=None, database=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.data())
def test_a_leaderboard_of_any_content_is_read_or_one_sentence(table: Path, data: st.DataObject) -> None:
    whole = table.read_bytes()
    frame = pd.read_csv(table, dtype=str, keep_default_na=False)
    place, cell = data.draw(st.integers(0, len(frame.columns) - 1)), data.draw(CELLS)
    how = data.draw(st.sampled_from(["cell", "name", "gone", "twice", "bytes", "more"]))
    try:
        if how == "bytes":
            at = data.draw(st.integers(0, len(whole)))
            table.write_bytes(whole[:at] + data.draw(st.binary(max_size=4)) + whole[at + 2 :])
        else:
            if how == "cell":
                frame.iloc[0, place] = cell
            elif how == "more":
                frame[cell] = cell
            elif how == "gone":
                frame = frame.drop(columns=frame.columns[place])
            else:
                names = list(frame.columns)
                names[place] = cell if how == "name" else names[place - 1]
                frame.columns = names
            table.write_text(frame.to_csv(index=False), encoding="utf-8")
        read = read_leaderboard(table)
        assert read["clean"].between(0, 100).all() or read["clean"].isna().any()
    except AdvdpnpError as error:
        said = str(error)
        assert str(table) in said
        assert len(said) < 1000
        assert said.isprintable()
    finally:
        table.write_bytes(whole)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a,b\n1,2\n", "the column model is missing"), (b"," * 6000 + b"\n", "more cells than"), (b"", "No columns"),
     (b"x" * 100, "the column model is missing")],
)  # fmt: skip
def test_what_is_no_leaderboard_says_what_it_lacks(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "leaderboard.csv"
    path.write_bytes(content)
    with pytest.raises(AdvdpnpError, match=f"leaderboard.csv is damaged .*{said}.*; make it again with advdpnp"):
        read_leaderboard(path)


def test_a_table_larger_than_any_is_refused_unread(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "LARGEST_CSV", 100)
    monkeypatch.setattr(pd, "read_csv", None)  # would fail if it were called
    with pytest.raises(AdvdpnpError, match="bytes, more than the 100"):
        read_leaderboard(table)


VALUES = st.none() | st.sampled_from(
    [0, -1, 1e300, float("nan"), "x", "a" * 1000, "\x1b[31m", [], [[1.0]], {}, True, 10**30]
)


@settings(max_examples=200, deadline=None, database=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.data())
def test_a_report_of_geometry_of_any_content_is_shown_or_left_out(tmp_path: Path, data: st.DataObject) -> None:
    vectors = {
        "angles": [[0.0, 91.4], [91.4, 0.0]], "min_separation": 91.4, "simplex_bound": 180.0,
        "bound_can_be_reached": True,
    }  # fmt: skip
    features = {"kind": "clean", "mean_angle_to_own": 12.3, "silhouette": None}
    report: dict[str, Any] = {"model": "net", "dataset": "digits", "vectors": vectors, "features": [features]}
    holder = data.draw(st.sampled_from([report, vectors, features]))
    holder[data.draw(st.sampled_from(list(holder)))] = data.draw(VALUES)
    path = tmp_path / "geometry.json"
    path.write_text(json.dumps(report))
    panel = _panel(path)
    if panel is not None:
        assert panel["name"].isprintable()
        assert all(len(line) == len(panel["angles"]) for line in panel["angles"])
        json.dumps(panel, allow_nan=False)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b'{"model": 1, "model": 2}', b"[]"])
def test_a_damaged_report_of_geometry_names_itself(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "geometry.json"
    path.write_bytes(content)
    assert _panel(path) is None
    assert f"{path} is damaged" in caplog.text
