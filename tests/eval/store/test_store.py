import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.store import writer as unit_writer
from advdpnp.eval.store.adversarial_images import to_table
from advdpnp.eval.store.key import EvaluationKey, file_name
from advdpnp.eval.store.model_folder import ModelFolder, open_model
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.reader import find_results
from advdpnp.eval.store.schema import FOUND

NET = ModelRecord("my net", "ab" * 32, "small-cnn", "ce", 10, ("a", "b"), "digits")
UNIT = EvaluationKey("my-attack", "d" * 64, ThreatModel.parse("linf", "8/255"), {"attack": {"steps": 20}, "seed": 0})
FACTS = {
    "dataset": "digits",
    "seed": 0,
    "randomised": False,
    "versions": {},
    "device": "cpu",
    "command": "x",
    "date": "d",
}


def found(samples: list[int]) -> dict[str, np.ndarray]:
    index = np.array(samples)
    n = len(index)
    return {
        "sample": index, "label": index % 10, "clean_prediction": index % 10,
        "adversarial_prediction": (index + (index % 2 == 0)) % 10, "success": index % 2 == 0,
        "norm": np.where(index % 2 == 0, index / 10_000, np.inf), "margin": (index / 7).astype(np.float32),
        "forwards": index + 1, "backwards": index, "zero_gradient": np.zeros(n, bool), "borderline": np.zeros(n, bool),
        "stage": np.zeros(n, int), "refused": np.zeros(n, int),
    }  # fmt: skip


def fill(folder: ModelFolder, samples: range, unit: EvaluationKey = UNIT) -> pd.DataFrame:
    with folder.writer(unit, np.array(samples), FACTS) as writer:
        writer.add(found(list(reversed(samples))))
    return folder.read(unit).frame


class Killed(BaseException):
    """Stands for Ctrl-C."""


def interrupt(folder: ModelFolder, samples: list[int], wanted: int, unit: EvaluationKey = UNIT) -> None:
    with suppress(Killed), folder.writer(unit, np.arange(wanted), FACTS) as writer:
        writer.add(found(samples))
        raise Killed


def test_a_complete_evaluation_is_named_by_the_index_and_sorted(tmp_path: Path) -> None:
    with open_model(tmp_path, NET) as folder:
        frame = fill(folder, range(20))
    (path,) = tmp_path.glob("my_net-abababab")
    assert sorted(file.name for file in path.iterdir() if not file.name.startswith(".")) == [
        "attacks.parquet", "model.json", "units.json",
    ]  # fmt: skip
    assert list(frame.columns) == FOUND.names
    assert frame["sample"].tolist() == list(range(20))
    assert frame["margin"].dtype == np.float32
    (unit,) = find_results([tmp_path])
    pd.testing.assert_frame_equal(unit.verdicts.frame, frame)
    assert unit.threat == ("linf", 8 / 255, "8/255")
    assert (unit.hash, unit.dataset, unit.seed) == (UNIT.hash, "digits", 0)
    assert unit.info["identity"]["attack"] == {"steps": 20}
    assert unit.info["runs"][0]["samples"] == 20
    assert not (path / ".parts").exists()
    with pq.ParquetFile(path / "attacks.parquet") as file:
        assert file.read(["unit"]).column("unit").unique().to_pylist() == [UNIT.hash]


def test_an_interrupted_unit_keeps_what_was_found_and_continues_to_the_same_table(tmp_path: Path) -> None:
    with open_model(tmp_path / "a", NET) as folder:
        interrupt(folder, [5, 3, 9], 12)
    with open_model(tmp_path / "a", NET) as folder:
        assert folder.stored(UNIT).tolist() == [3, 5, 9]
        assert not folder.is_complete(UNIT, np.arange(12))
        interrupt(folder, [0, 11], 12)
        with folder.writer(UNIT, np.arange(12), FACTS) as writer:
            writer.add(found([1, 2, 4, 6, 7, 8, 10]))
        continued = folder.read(UNIT)
    with open_model(tmp_path / "b", NET) as folder:
        undisturbed = fill(folder, range(12))
    pd.testing.assert_frame_equal(continued.frame, undisturbed)
    assert continued.info["runs"][0]["samples"] == 12  # three parts of runs that say the same of themselves


def test_more_samples_are_added_to_a_complete_unit(tmp_path: Path) -> None:
    with open_model(tmp_path, NET) as folder:
        fill(folder, range(10))
        interrupt(folder, [12], 20)
        assert folder.read(UNIT).frame["sample"].tolist() == list(range(10))  # readers see the old table meanwhile
        assert folder.stored(UNIT).tolist() == [*range(10), 12]
        with folder.writer(UNIT, np.arange(20), FACTS) as writer:
            writer.add(found([10, 11, 13, 14, 15, 16, 17, 18, 19]))
        assert folder.is_complete(UNIT, np.arange(20))
        assert not (folder.path / ".parts").exists()


def test_parts_left_by_a_process_killed_after_compaction_count_once(tmp_path: Path) -> None:
    with open_model(tmp_path, NET) as folder:
        interrupt(folder, list(range(6)), 6)
        parts = folder.parts_folder(UNIT)
        kept = {path.name: path.read_bytes() for path in parts.iterdir()}
        with folder.writer(UNIT, np.arange(6), FACTS):
            pass
        parts.mkdir(parents=True)
        for name, content in kept.items():
            (parts / name).write_bytes(content)
        assert folder.stored(UNIT).tolist() == list(range(6))


def test_an_attack_that_leaves_samples_out_is_named(tmp_path: Path) -> None:
    with (
        open_model(tmp_path, NET) as folder,
        pytest.raises(AdvdpnpError, match=r"my-attack gave no verdict for 2 of 5 samples"),
        folder.writer(UNIT, np.arange(5), FACTS) as writer,
    ):
        writer.add(found([0, 1, 2]))


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    script = (
        "from advdpnp.eval.store.model_folder import ModelRecord, open_model; from pathlib import Path; import sys\n"
        "with open_model(Path(sys.argv[1]), ModelRecord('my net', 'ab' * 32)):\n"
        " print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(AdvdpnpError, match="another process is writing"), open_model(tmp_path, NET):
            pass
        other.communicate("")
    with open_model(tmp_path, NET):
        pass


def test_other_weights_are_another_folder(tmp_path: Path) -> None:
    for weights in ("ab" * 32, "cd" * 32):
        with open_model(tmp_path, ModelRecord("net", weights)) as folder:
            fill(folder, range(3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net-abababab", "net-cdcdcdcd"]


def test_any_change_of_the_definition_is_another_unit() -> None:
    units = [
        UNIT,
        EvaluationKey("my-attack", "d" * 64, UNIT.threat, {"attack": {"steps": 20}, "seed": 1}),
        EvaluationKey("my-attack", "d" * 64, UNIT.threat, {"attack": {"steps": 40}, "seed": 0}),
        EvaluationKey("my-attack", "e" * 64, UNIT.threat, UNIT.definition),
        EvaluationKey("my-attack", "d" * 64, ThreatModel.parse("linf", "4/255"), UNIT.definition),
        EvaluationKey("my-attack", "d" * 64, ThreatModel.parse("l2", "8/255"), UNIT.definition),
    ]
    assert len({unit.hash for unit in units}) == len(units)


def test_the_same_eps_written_otherwise_is_the_same_unit(tmp_path: Path) -> None:
    one, other = (EvaluationKey("fgsm", "d" * 64, ThreatModel.parse("linf", text), {}) for text in ("1/10", "0.1"))
    with open_model(tmp_path, NET) as folder:
        interrupt(folder, [0], 2, one)
        assert folder.stored(other).tolist() == [0]
        fill(folder, range(2), other)
        assert folder.is_complete(one, np.arange(2))


FOG = {"corruption": {"corruption": "fog", "severity": 3, "seed": 0}, "source": "cifar10-c"}
CELL = EvaluationKey("corruption/fog/3", "d" * 64, None, FOG)


@pytest.mark.parametrize("name", ["attacks.parquet", "corruptions.parquet", "units.json"])
def test_a_flipped_bit_is_seen_wherever_it_is(tmp_path: Path, name: str) -> None:
    with open_model(tmp_path, NET) as folder:
        fill(folder, range(100))
        fill(folder, range(100), CELL)
        path = folder.path / name
        whole = path.read_bytes()
        for place in range(0, len(whole), 1 + len(whole) // 150):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            with pytest.raises(AdvdpnpError, match=r"is damaged.*; delete it"):
                find_results([tmp_path])


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing", "truncated"])
def test_a_damaged_file_is_named_in_one_sentence(tmp_path: Path, content: bytes | str) -> None:
    with open_model(tmp_path, NET) as folder:
        fill(folder, range(5))
        path = folder.path / "attacks.parquet"
        path.write_bytes(path.read_bytes()[:-20] if isinstance(content, str) else content)
        for look in (folder.stored, folder.read):
            with pytest.raises(AdvdpnpError, match="is damaged; delete it") as error:
                look(UNIT)
            assert str(path) in str(error.value)


def test_what_a_deleted_file_held_is_searched_again_and_nothing_else(tmp_path: Path) -> None:
    with open_model(tmp_path, NET) as folder:
        expected = fill(folder, range(5))
        fill(folder, range(5), CELL)
    (folder.path / "attacks.parquet").unlink()
    with pytest.raises(AdvdpnpError, match=r"attacks\.parquet is missing; run the same evaluation again"):
        find_results([tmp_path])
    with open_model(tmp_path, NET) as folder:
        assert not folder.has(UNIT)
        assert folder.is_complete(CELL, np.arange(5))
        pd.testing.assert_frame_equal(fill(folder, range(5)), expected)


def test_a_newer_store_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with open_model(tmp_path, NET) as folder:
        fill(folder, range(5))
    path = folder.path / "units.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(AdvdpnpError, match="was written by a newer advdpnp; update advdpnp"):
        find_results([tmp_path])


def test_corruptions_are_stored_without_margin_and_read_with_all_that_follows_from_the_prediction(
    tmp_path: Path,
) -> None:
    with open_model(tmp_path, NET) as folder:
        frame = fill(folder, range(30), CELL)
        fill(folder, range(10))
    assert pq.read_schema(folder.path / "corruptions.parquet").names == [
        "unit", "sample", "label", "prediction", "forwards", "borderline",
    ]  # fmt: skip
    prediction = (np.arange(30) + (np.arange(30) % 2 == 0)) % 10
    assert frame["clean_prediction"].tolist() == frame["adversarial_prediction"].tolist() == prediction.tolist()
    assert frame["success"].tolist() == (prediction != np.arange(30) % 10).tolist()
    assert frame["forwards"].tolist() == list(range(1, 31))
    assert frame["margin"].isna().all()
    assert {unit.label: unit.corrupted for unit in find_results([tmp_path])} == {
        "corruption/fog/3": True,
        "my-attack": False,
    }


def test_an_attack_may_be_called_like_a_corruption(tmp_path: Path) -> None:
    unit = EvaluationKey("corruption/fog/3", "d" * 64, UNIT.threat, {"corruption": 1})
    with open_model(tmp_path, NET) as folder:
        assert fill(folder, range(30), unit)["margin"].notna().all()


def test_left_over_temporary_files_are_removed(tmp_path: Path) -> None:
    with open_model(tmp_path, NET) as folder:
        left = folder.path / ".pgd.parquet.abc.tmp"
        left.write_bytes(b"half")
    with open_model(tmp_path, NET):
        assert not left.exists()


def test_parts_are_written_while_the_search_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_writer, "FLUSH_SECONDS", 0.0)
    with open_model(tmp_path, NET) as folder, folder.writer(UNIT, np.arange(4), FACTS) as writer:
        for sample in range(4):
            writer.add(found([sample]))
            assert len(list(folder.parts_folder(UNIT).glob("*.parquet"))) == sample + 1


def test_examples_are_those_of_the_lowest_samples_in_any_order_and_across_runs(tmp_path: Path) -> None:
    def add(writer: unit_writer.VerdictWriter, samples: list[int]) -> None:
        index = np.array(samples)
        places = writer.wants_images(index)
        x = np.broadcast_to(index[places, None, None, None] / 100, (len(places), 1, 2, 2)).astype(np.float32)
        writer.add(found(samples), places, x, x + 0.1)

    with open_model(tmp_path, NET) as folder:
        with suppress(Killed), folder.writer(UNIT, np.arange(30), FACTS) as writer:
            add(writer, [29, 4, 17, 25, 3, 22, 21, 20, 28])
            add(writer, [1, 27])
            raise Killed
        with folder.writer(UNIT, np.arange(30), FACTS) as writer:
            add(writer, [i for i in range(30) if i not in (29, 4, 17, 25, 3, 22, 21, 20, 28, 1, 27)])
    (unit,) = find_results([tmp_path])
    stored = unit.examples()
    assert stored["sample"].tolist() == list(range(8))
    assert stored["label"].tolist() == list(range(8))
    np.testing.assert_allclose(stored["x"][:, 0, 0, 0], np.arange(8) / 100, atol=1e-7)
    np.testing.assert_allclose(stored["x_adv"] - stored["x"], 0.1, atol=1e-7)
    assert stored["x_adv"].dtype == np.float32
    assert unit.record.images == 8


def test_images_are_sorted_whatever_order_they_were_found_in(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((30, 1, 4, 4)).astype(np.float32)

    def stored(name: str, *parts: list[int]) -> bytes:
        def pack(sample: np.ndarray, label: np.ndarray, x_adv: np.ndarray) -> pa.Table:
            return to_table(sample, [None] * len(sample), torch.from_numpy(x_adv))

        with open_model(tmp_path / name, NET) as folder:
            for samples in parts:
                with suppress(Killed), folder.writer(UNIT, np.arange(30), FACTS, pack=pack) as writer:
                    columns = found(samples)
                    writer.keep(columns, x[samples])
                    places = writer.wants_images(columns["sample"])
                    writer.add(columns, places, x[samples][places], x[samples][places])
                    if samples is not parts[-1]:
                        raise Killed
            return (folder.path / "adversarials.parquet").read_bytes()

    expected = stored("in-order", list(range(30)))
    shuffled = np.random.default_rng(1).permutation(30).tolist()
    assert stored("shuffled", shuffled[:11], shuffled[11:]) == expected


def test_a_folder_may_have_colons_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("run:2026=11")  # relative: pyarrow takes it for a URL
    with open_model(out, NET) as folder:
        interrupt(folder, [5, 3, 9], 12)
    with open_model(out, NET) as folder:
        assert folder.stored(UNIT).tolist() == [3, 5, 9]
        with folder.writer(UNIT, np.arange(12), FACTS) as writer:
            columns, x = found([0, 1, 2, 4, 6, 7, 8, 10, 11]), np.zeros((9, 1, 4, 4), np.float32)
            places = writer.wants_images(columns["sample"])
            writer.add(columns, places, x[places], x[places])
    (unit,) = find_results([out])
    assert len(unit.frame) == 12
    assert len(unit.examples()["sample"]) == 6


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the administrator can write everywhere")
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(AdvdpnpError, match="cannot write"), open_model(tmp_path, NET):
        pass


def test_file_names_are_safe_everywhere() -> None:
    assert file_name("robustbench:L2/Engstrom 2019") == "robustbench_L2_Engstrom_2019"
    assert file_name("...") == "_"
