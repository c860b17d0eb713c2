"""Folders of the layout of before are read as they are, converted without loss, and never lost on the way."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.cli import run
from advdpnp.eval.diagnostics import DiagnosticRecord, write_diagnostics
from advdpnp.eval.report.leaderboard import build_leaderboard
from advdpnp.eval.store import old_layout
from advdpnp.eval.store.adversarial_images import read_tables
from advdpnp.eval.store.commit import commit
from advdpnp.eval.store.data_files import read_images
from advdpnp.eval.store.key import EvaluationKey
from advdpnp.eval.store.model_folder import ModelFolder, open_model
from advdpnp.eval.store.reader import StoredEvaluation, find_results, read_diagnostics
from advdpnp.eval.store.schema import FOUND

WORD = pa.dictionary(pa.int32(), pa.string())


def to_old_layout(folder: Path) -> None:
    """Rewrite a model's folder as the versions of before wrote it."""
    units, images = find_results([folder]), {}
    frames = {unit.hash: unit.keyed_frame() for unit in units}  # corruptions are read when asked for: before they go
    for unit in units:
        images[unit.hash] = [row for table in read_images(folder, unit.hash) for row in table.to_pylist()]
    diagnostics = read_diagnostics(folder)
    examples = {unit.hash: unit.examples() for unit in units if images[unit.hash]}
    for path in (*folder.glob("*.parquet"), folder / "units.json"):
        path.unlink()
    for unit in units:
        write_old(folder / f"{unit.record.stem}.parquet", unit, frames[unit.hash])
        kept = [row for row in images[unit.hash] if unit.record.saved and row["sample"] in unit.needs_image]
        if unit.record.saved:
            pixels = int(np.prod(unit.record.image_shape))
            kinds = {
                "sample": pa.int64(),
                "difference": pa.binary(pixels),
                "image": pa.binary(4 * pixels),
                "digest": pa.binary(8),
            }
            columns = [pa.array([row[name] for row in kept], kind) for name, kind in kinds.items()]
            pq.write_table(pa.table(dict(zip(kinds, columns, strict=True))), folder / f"{unit.record.stem}.parquet.tmp")
            (folder / f"{unit.record.stem}.parquet.tmp").rename(folder / f"{unit.record.stem}.adversarials")
        if unit.hash in examples:
            np.savez_compressed(folder / f"{unit.record.stem}.examples.npz", **examples[unit.hash])
    for measured in diagnostics:
        name = f"sanity-{measured.norm or 'answers'}-{measured.samples}.json"
        (folder / name).write_text(json.dumps(asdict(measured), indent=1))


def write_old(path: Path, unit: StoredEvaluation, frame: pd.DataFrame) -> None:
    if unit.corrupted:
        frame["margin"] = np.linspace(-1, 1, len(frame), dtype=np.float32)  # was stored, and is no more
    key = [(name, pa.float64() if name == "eps" else WORD) for name in frame.columns if name not in FOUND.names]
    schema = pa.schema([*key, *FOUND])
    record = unit.record
    info = {"identity": record.identity, "model": unit.model.name, **record.metadata, "runs": record.runs}
    plain = [pa.string() if f.type == WORD else f.type for f in schema]
    arrays = [pa.array(frame[f.name], kind, from_pandas=True) for f, kind in zip(schema, plain, strict=True)]
    table = pa.Table.from_arrays([a.cast(f.type) for a, f in zip(arrays, schema, strict=True)], schema=schema)
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata({b"advdpnp": json.dumps(info)}), path, compression="zstd")


@pytest.fixture
def out(store_model: Callable[..., Path]) -> Path:
    """Two models with attacks, images, corruptions and measurements."""
    shares = {"clean": 0.9, "fgsm": 0.5, "pgd-20": 0.4}
    cells = {(name, severity): 0.5 for name in ("fog", "snow") for severity in (1, 2)}
    out = store_model("one", shares, images=True, cells=cells)
    store_model("two", {"clean": 0.8, "fgsm": 0.3}, cells={("fog", 1): 0.2})
    for unit in find_results([out]):
        if unit.label == "clean":
            numbers = {"right": {"clean": "1" * 20}}
            write_diagnostics(
                unit.folder, DiagnosticRecord(unit.model.weights_hash, unit.data, 20, 0, "", None, "", numbers)
            )
    return out


def state(out: Path) -> dict[str, Any]:
    """All that readers see."""
    found = {}
    for unit in find_results([out]):
        frame = unit.verdicts.frame.drop(columns="margin")
        said = unit.info, unit.threat, unit.seed
        found[f"{unit.model.name} {unit.hash}"] = frame, *said, unit.examples(), read_diagnostics(unit.folder)
    return found


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, (frame, info, threat, seed, examples, diagnostics) in expected.items():
        pd.testing.assert_frame_equal(found[name][0], frame)
        assert found[name][1:4] == (info, threat, seed)
        assert found[name][4].keys() == examples.keys()
        assert all(np.array_equal(found[name][4][key], each) for key, each in examples.items())
        assert found[name][5] == diagnostics


def test_old_folders_are_read_as_if_they_were_new(out: Path) -> None:
    expected, table = state(out), build_leaderboard([out])
    for folder in (path.parent for path in out.rglob("model.json")):
        to_old_layout(folder)
    assert not list(out.rglob("units.json"))
    assert_equal(state(out), expected)
    pd.testing.assert_frame_equal(build_leaderboard([out]), table)


def test_migrate_converts_every_model_and_says_so_in_one_line_each(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = state(out)
    for folder in (path.parent for path in out.rglob("model.json")):
        to_old_layout(folder)
    before = state(out)
    assert run(["migrate", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].split("-")[0] for line in lines[:2]] == ["one", "two"]
    assert "7 evaluations, 11 files" in lines[0]
    assert lines[2:] == ["converted 10 evaluations of 2 models"]
    assert_equal(state(out), before)
    assert_equal(state(out), expected)
    left = {path.name for path in out.rglob("*") if path.is_file()} - {".lock"}
    assert left == {"model.json", "units.json", "attacks.parquet", "corruptions.parquet", "adversarials.parquet"}
    assert run(["migrate", str(out)]) == 0
    assert capsys.readouterr().out == "converted 0 evaluations of 0 models; 2 had the new layout already\n"


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.mark.parametrize("point", ["before the commit", "before it is compared", "while old files go"])
def test_a_conversion_that_was_killed_loses_nothing_and_is_finished(
    out: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    expected = state(out)
    for folder in (path.parent for path in out.rglob("model.json")):
        to_old_layout(folder)

    def die(*arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if point == "while old files go":
            unlink, gone = Path.unlink, []

            def some(path: Path, **options: Any) -> None:
                if path.suffix in (".parquet", ".npz", ".adversarials") and "@" in path.name:
                    gone.append(path)
                    if len(gone) == 2:
                        raise Killed
                unlink(path, **options)

            patch.setattr(Path, "unlink", some)
        else:
            patch.setattr(old_layout, {"before the commit": "commit", "before it is compared": "_verify"}[point], die)
        with pytest.raises(Killed):
            run(["migrate", str(out)])
    assert_equal(state(out), expected)
    assert run(["migrate", str(out)]) == 0
    assert_equal(state(out), expected)
    assert not list(out.rglob("*@*"))


def test_what_is_not_read_back_equal_removes_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder, *_) = sorted(path.parent for path in out.rglob("model.json"))
    to_old_layout(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def forgetful(contents: Any, complete: Any) -> None:
        commit(contents, complete[1:])

    monkeypatch.setattr(old_layout, "commit", forgetful)
    assert run(["migrate", str(out)]) == 2
    assert all(path.read_bytes() == content for path, content in before.items())


def test_an_evaluation_that_writes_into_an_old_folder_converts_it_and_continues_what_was_unfinished(out: Path) -> None:
    expected = state(out)
    (unit,) = [unit for unit in find_results([out]) if (unit.model.name, unit.label) == ("one", "pgd-20")]
    for folder in (path.parent for path in out.rglob("model.json")):
        to_old_layout(folder)
    path = unit.folder / f"{unit.record.stem}.parquet"
    parts = path.with_suffix(".parts")
    parts.mkdir()
    path.rename(parts / "000000.parquet")
    key = EvaluationKey("pgd-20", unit.data, ThreatModel.parse("linf", "8/255"), {
        name: value for name, value in unit.record.identity.items() if name not in ("label", "data", "threat")
    })  # fmt: skip
    with open_model(out, unit.model) as model:
        assert isinstance(model, ModelFolder)
        assert not list(unit.folder.glob("*@*"))
        assert model.stored(key).tolist() == list(range(200))
        assert not model.has(key)
        tables = list(read_tables(next(model.parts_folder(key).glob("*.adversarials"))))
        assert [sample for table in tables for sample in table.column("sample").to_pylist()] == list(range(8))
        with model.writer(key, np.arange(200), {}):
            pass
    assert_equal(state(out), expected)


@pytest.mark.parametrize("what", ["cut", "moved", "stranger", "several", "other"])
def test_old_files_that_are_damaged_or_changed_are_one_sentence(out: Path, what: str) -> None:
    first, second = sorted(path.parent for path in out.rglob("model.json"))
    for folder in (first, second):
        to_old_layout(folder)
    (path,) = first.glob("fgsm@*.parquet")
    table = pq.read_table(path)
    why = {
        "cut": "is damaged; delete it", "moved": "another model", "stranger": "not a verdict file",
        "several": "rows are of several searches", "other": "rows and its definition differ",
    }[what]  # fmt: skip
    if what == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif what == "moved":
        path.rename(second / path.name)
    elif what == "stranger":
        pd.DataFrame({"a": [1]}).to_parquet(path)
    else:
        eps = [0.5] * len(table) if what == "other" else [0.5, *table.column("eps").to_pylist()[1:]]
        pq.write_table(table.set_column(table.column_names.index("eps"), "eps", pa.array(eps)), path)
    with pytest.raises(AdvdpnpError, match=why):
        find_results([out])
    assert run(["migrate", str(out)]) == 2
    assert path.exists() or what == "moved"


def test_old_files_without_later_columns_are_read(out: Path) -> None:
    for folder in (path.parent for path in out.rglob("model.json")):
        to_old_layout(folder)
    for path in out.rglob("fgsm@*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["stage", "refused"]), path)
    assert run(["migrate", str(out)]) == 0
    frames = [unit.frame for unit in find_results([out]) if unit.label == "fgsm"]
    assert len(frames) == 2
    assert all((frame[["stage", "refused"]] == -1).all(axis=None) for frame in frames)


def test_a_folder_without_results_has_nothing_to_migrate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["migrate", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said == f"advdpnp: there are no results of an earlier version in {tmp_path}; nothing to migrate\n"
    assert run(["migrate", str(tmp_path / "nowhere")]) == 2
    assert "there is no folder" in capsys.readouterr().err
