"""Files that a stranger has written or changed give results or one sentence that names the file: nothing else."""

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.untrusted import parquet
from advdpnp.base.untrusted.columns import RESERVED
from advdpnp.base.untrusted.parquet import check_pages
from advdpnp.cli import run
from advdpnp.commands.support import studies
from advdpnp.corruption.export import check_export
from advdpnp.corruption.official import MARKER
from advdpnp.datasets import Split
from advdpnp.eval.analysis.columns import _MEANINGS
from advdpnp.eval.report.leaderboard import build_leaderboard
from advdpnp.eval.store import schema
from advdpnp.eval.store.data_files import sha256_of
from advdpnp.eval.store.diagnostics_record import DiagnosticRecord
from advdpnp.eval.store.index import INDEX, write_diagnostics
from advdpnp.eval.store.reader import find_results

LEAVES = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, -1, 5, 10**9, 2**63, 10**30, 1.5, float("nan"), float("inf"), -1e300])
    | st.sampled_from(["", "x", "clean", "n", "worst_case", "corruption/x", "corruption/fog/1", "<script>", "[/red]x"])
    | st.sampled_from(["\x1b[31m", "\u202eabc", "a\nb", "=1+1", "$x$", "a" * 100_000, "\ud800", "clean_low"])
)
JSON = (
    LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(st.sampled_from(["a", "norm", "eps"]), LEAVES, max_size=2)
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values stand in a JSON value, itself included."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The value with another one in a place; with ``...`` that place is gone."""
    if not path:
        return {} if new is ... else new
    changed = copy.deepcopy(value)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    if new is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = new
    return changed


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, write_results: Callable[..., None]) -> Path:
    """One model with attacks, corruptions, images and measurements."""
    out = tmp_path_factory.mktemp("strangers") / "results"
    cells = {("fog", 1): 0.5, ("snow", 2): 0.4}
    write_results(out, "net", {"clean": 0.9, "fgsm": 0.5, "pgd-20": 0.4}, n=20, cells=cells, images=True)
    (model,) = out.iterdir()
    (unit,) = [unit for unit in find_results([out]) if unit.label == "clean"]
    numbers = {"right": {"clean": "1" * 20}, "chance": {"classes": 10, "right": {"0,255": "0" * 20}}}
    about = unit.model.weights_hash, unit.data, 20, 0
    write_diagnostics(model, DiagnosticRecord(*about, "", None, "", numbers))
    write_diagnostics(model, DiagnosticRecord(*about, "linf", 8 / 255, "8/255", {"right": {}, "rising": 0.1}))
    return model


def sentence(act: Callable[[], Any]) -> str:
    """What the only error that is allowed says; "" if there is none."""
    try:
        act()
    except AdvdpnpError as error:
        return str(error)
    return ""


def look(folder: Path) -> None:
    """All that is shown of results; the only error is one short printable sentence that names a file."""
    said = sentence(lambda: find_results([folder.parent]))
    assert not said or (str(folder) in said and len(said) < 1000 and said.isprintable()), said
    if said:
        return
    said = sentence(lambda: build_leaderboard([folder.parent]))
    assert not said or f"the measurements in {folder} were made by a newer advdpnp" in said
    for unit in find_results([folder.parent]):
        assert unit.date is not None
        assert unit.seconds >= 0
        unit.attack_info  # noqa: B018
        said = sentence(unit.examples)
        assert not said or "adversarials.parquet" in said


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_a_model_record_of_any_content_is_read_or_one_sentence(results: Path, data: st.DataObject) -> None:
    path = results / "model.json"
    whole = path.read_text()
    try:
        place = data.draw(st.sampled_from(list(places(json.loads(whole)))))
        path.write_text(json.dumps(put(json.loads(whole), place, data.draw(JSON | st.just(...)))))
        look(results)
    finally:
        path.write_text(whole)


@settings(max_examples=250, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_an_index_of_any_content_is_read_or_one_sentence(
    results: Path, edit_index: Callable[..., None], data: st.DataObject
) -> None:
    path = results / INDEX
    whole = path.read_text()
    content = json.loads(whole)
    try:
        place = data.draw(st.sampled_from(list(places(content))[1:]))
        changed = put(content, place, data.draw(JSON | st.just(...)))
        edit_index(path, lambda held: (held.clear(), held.update(changed)))
        look(results)
    finally:
        path.write_text(whole)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_the_marker_of_corrupted_images_of_any_content_is_read_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "marker"
    folder.mkdir(exist_ok=True)
    (folder / "fog.npy").touch()
    test = Split(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    (folder / MARKER).unlink(missing_ok=True)
    assert "did not write" in sentence(lambda: check_export(test, "digits", folder, seed=0))
    about = check_export(test, "digits", folder.with_name("none"), seed=0)
    (folder / MARKER).write_text(json.dumps(about))
    assert check_export(test, "digits", folder, seed=0) == about
    changed = put(about, data.draw(st.sampled_from(list(places(about)))), data.draw(JSON | st.just(...)))
    (folder / MARKER).write_text(json.dumps(changed))
    said = sentence(lambda: check_export(test, "digits", folder, seed=0))
    assert changed == about or (str(folder) in said and len(said) < 1000 and said.isprintable()), said


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_what_a_study_has_measured_of_any_content_is_read_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    run = tmp_path_factory.getbasetemp()
    whole = {"definition": "1a2b3c4d", "measured": {"clean": 90.0, "pgd-20": 40.0, "min_separation": float("nan")}}
    changed = put(whole, data.draw(st.sampled_from(list(places(whole)))), data.draw(JSON | st.just(...)))
    (run / studies._JUDGED).write_text(json.dumps(changed))
    found: dict[str, Any] = {}
    said = sentence(lambda: found.update(studies._judged(run, "1a2b3c4d") or {}))
    assert not said or (str(run) in said and len(said) < 1000 and said.isprintable()), said
    assert said or all(type(each) is float and name.isprintable() for name, each in found.items())


def column(kind: pa.DataType, length: int) -> st.SearchStrategy[pa.Array]:
    """A column of this type with odd values."""
    odd: list[Any] = [None, 0, 1, -1, -2, 2**62 if kind == pa.int64() else 2**30]
    if pa.types.is_floating(kind):
        odd = [None, 0.0, -1.0, float("nan"), float("inf"), 1e300]
    if pa.types.is_boolean(kind):
        odd = [None, True, False]
    if pa.types.is_string(kind):
        odd = [None, "", "x", "00000000"]
    return st.lists(st.sampled_from(odd), min_size=length, max_size=length).map(lambda row: pa.array(row, kind))


KINDS = [pa.int64(), pa.int32(), pa.float64(), pa.float32(), pa.bool_(), pa.string()]


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_columns_of_any_type_and_content_are_read_or_one_sentence(
    results: Path, edit_index: Callable[..., None], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["attacks", "corruptions"]))
    path, index = results / f"{name}.parquet", results / INDEX
    kept = path.read_bytes(), index.read_text()
    table = pq.ParquetFile(path).read()
    place = data.draw(st.integers(0, table.num_columns - 1))
    kind = data.draw(st.sampled_from(KINDS))
    new = data.draw(column(kind, len(table)))
    how = data.draw(st.sampled_from(["replaced", "twice", "gone", "more", "empty"]))
    title = table.column_names[place]
    if how in ("replaced", "twice"):
        changed = table.set_column(place, title, new) if how == "replaced" else table.append_column(title, new)
    else:
        changed = {"gone": table.remove_column(place), "more": table.append_column("more", new), "empty": table[:0]}[
            how
        ]
    try:
        pq.write_table(changed, path)
        edit_index(index, lambda content: content["files"][name].update(sha256=sha256_of(path)))
        look(results)
    finally:
        path.write_bytes(kept[0])
        index.write_text(kept[1])


def test_bytes_of_any_kind_are_one_sentence(results: Path) -> None:
    for name in ("model.json", INDEX, "attacks.parquet", "corruptions.parquet"):
        path = results / name
        whole = path.read_bytes()
        for content in (b"", b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b'{"a": 1, "a": 2}', whole[:50], whole + b"x"):
            path.write_bytes(content)
            with pytest.raises(AdvdpnpError, match=name.replace(".", r"\.")):
                find_results([results.parent])
        path.write_bytes(whole)


IMAGE_COLUMNS = ["unit", "sample", "difference", "image", "digest", "clean"]


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_images_of_any_type_and_content_are_read_or_one_sentence(
    results: Path, edit_index: Callable[..., None], data: st.DataObject
) -> None:
    path, index = results / "adversarials.parquet", results / INDEX
    kept = path.read_bytes(), index.read_text()
    table = pq.ParquetFile(path).read()
    title = data.draw(st.sampled_from(IMAGE_COLUMNS))
    kind = data.draw(st.sampled_from([pa.int64(), pa.binary(), pa.string(), pa.float32(), pa.list_(pa.int64())]))
    odd: list[Any] = {pa.int64(): [None, -1, 2**62], pa.float32(): [None, 0.5]}.get(kind, [None, b"", b"x" * 700])
    odd = [None, [], [1]] if pa.types.is_list(kind) else ["", "x"] if pa.types.is_string(kind) else odd
    new = pa.array(data.draw(st.lists(st.sampled_from(odd), min_size=len(table), max_size=len(table))), kind)
    place = table.column_names.index(title)
    changed = data.draw(
        st.sampled_from([table.set_column(place, title, new), table.append_column(title, new), table[:0]])
    )
    try:
        pq.write_table(changed, path)
        edit_index(index, lambda content: content["files"]["adversarials"].update(sha256=sha256_of(path)))
        for unit in find_results([results.parent]):
            said = sentence(unit.examples)
            assert not said or "adversarials.parquet" in said
            said = sentence(lambda unit=unit: list(unit.adversarials(lambda n: torch.zeros(len(n), 3, 2, 2), 20)))  # type: ignore[misc]
            assert not said or "adversarials.parquet" in said
    finally:
        path.write_bytes(kept[0])
        index.write_text(kept[1])


def test_images_that_are_larger_than_any_are_refused_before_they_are_in_memory(
    results: Path, edit_index: Callable[..., None]
) -> None:
    path, index = results / "adversarials.parquet", results / INDEX
    kept = path.read_bytes(), index.read_text()
    table = pq.ParquetFile(path).read()
    huge = pa.DictionaryArray.from_arrays(pa.array([0] * 400, pa.int32()), pa.array([b"x" * 2**23], pa.binary()))
    rows = {name: [table[name][0].as_py()] * 400 for name in ("unit", "sample", "digest")}
    bomb = pa.table({**rows, "difference": huge, "image": huge, "clean": huge})  # 10 GB, in a file of kilobytes
    try:
        pq.write_table(bomb, path, compression="zstd")
        assert path.stat().st_size < 2**17
        edit_index(index, lambda content: content["files"]["adversarials"].update(sha256=sha256_of(path)))
        (unit, *_) = [unit for unit in find_results([results.parent]) if unit.record.hash == rows["unit"][0]]
        before = pa.total_allocated_bytes()
        with pytest.raises(AdvdpnpError, match=r"the images in .* are damaged"):
            unit.examples()
        assert pa.total_allocated_bytes() - before < 2**28
    finally:
        path.write_bytes(kept[0])
        index.write_text(kept[1])


@pytest.mark.parametrize(("file", "title"), [("attacks", "unit"), ("adversarials", "image")])
def test_a_page_that_unpacks_to_more_than_any_is_refused_before_it_is_in_memory(
    results: Path, edit_index: Callable[..., None], file: str, title: str
) -> None:
    path, index = results / f"{file}.parquet", results / INDEX
    kept = path.read_bytes(), index.read_text()
    table = pq.ParquetFile(path).read()
    place, kind = table.column_names.index(title), pa.string() if title == "unit" else pa.binary()
    values = table[title].cast(kind).to_pylist()
    long = [b"x" * (2**28 + 1)] if title == "image" else [(values[0] or "") + "x" * 2**24]
    bomb = table.set_column(place, title, pa.array([*long, *values[1:]], kind))
    try:
        pq.write_table(bomb, path, compression="zstd", use_dictionary=False, write_statistics=False)
        assert path.stat().st_size < 2**19
        edit_index(index, lambda content: content["files"][file].update(sha256=sha256_of(path)))
        pa.default_memory_pool().release_unused()
        del bomb, long
        before = pa.total_allocated_bytes()
        said = sentence(lambda: [unit.examples() for unit in find_results([results.parent])])
        assert f"{file}.parquet" in said
        assert pa.total_allocated_bytes() - before < 2**20
    finally:
        path.write_bytes(kept[0])
        index.write_text(kept[1])


def test_a_page_is_as_large_as_its_header_says_and_not_as_the_footer_does(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"a": pa.array(range(20), pa.int64()), "b": ["x" * 300] * 20})
    pq.write_table(table, path, compression=None, use_dictionary=["b"], write_page_checksum=True)
    content = path.read_bytes()
    footer = pq.read_metadata(path)
    column = footer.row_group(0).column(0)
    assert column.total_uncompressed_size < 300
    with open(path, "rb") as stream:
        check_pages(stream, footer, ["a", "b"], 2**12)
    start = column.data_page_offset
    assert content[start : start + 3] == b"\x15\x00\x15"  # the first field is 0, then comes the second: two bytes
    path.write_bytes(content[: start + 3] + b"\xfe\x7f" + content[start + 5 :])  # that say 8,191
    with open(path, "rb") as stream:
        check_pages(stream, footer, ["b"], 2**12)
        with pytest.raises(ValueError, match="its column a unpacks to more than 4,096 bytes"):
            check_pages(stream, footer, ["a"], 2**12)


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.binary(max_size=40))
def test_a_page_header_of_any_bytes_is_read_or_refused(start: bytes) -> None:
    header = parquet._Header(start)
    with suppress(ValueError):
        assert all(isinstance(size, int) for size in header.sizes())


def test_a_pipe_in_the_place_of_a_file_does_not_hang(results: Path) -> None:
    path = results / "model.json"
    whole = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    try:
        with pytest.raises(AdvdpnpError, match="no regular file"):
            find_results([results.parent])
    finally:
        path.unlink()
        path.write_bytes(whole)


def test_more_rows_than_any_evaluation_has_are_refused_before_they_are_read(
    results: Path, edit_index: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MOST_ROWS", 10)
    monkeypatch.setattr(pq.ParquetFile, "read", None)  # would fail if it were called
    with pytest.raises(AdvdpnpError, match="rows, more than 10"):
        schema.read_parquet(results / "attacks.parquet", results / "attacks.parquet", schema.FOUND)


def test_one_damaged_model_names_itself_and_stops_no_other(
    store_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = store_model("good", {"clean": 0.9, "fgsm": 0.5})
    store_model("bad", {"clean": 0.9, "fgsm": 0.4})
    (bad,) = out.glob("bad-*")
    (bad / "model.json").write_text("{}")
    assert run(["leaderboard", str(out)]) == 2
    said = capsys.readouterr()
    assert "good" in said.out
    assert f"{bad / 'model.json'} is damaged (name is missing)" in said.err
    assert pd.read_csv(out / "leaderboard.csv")["model"].tolist() == ["good"]
    assert run(["compare", "good", "bad", str(out)]) == 2
    assert "model.json is damaged" in capsys.readouterr().err
    shutil.rmtree(next(out.glob("good-*")))
    assert run(["leaderboard", str(out)]) == 2
    assert "model.json is damaged" in capsys.readouterr().err


def test_columns_of_the_leaderboard_are_no_names_of_attacks() -> None:
    assert set(_MEANINGS) <= RESERVED


def test_arrays_that_fill_more_memory_than_their_file_explains_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((300, 1000, 1000), np.uint8))
    with pytest.raises(AdvdpnpError, match=r"array 'x' would take 0.3 GB"):
        schema.read_arrays(path)
