import json
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

from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.store import writer as unit_writer
from advdpnp.eval.store.example_images import read_arrays
from advdpnp.eval.store.key import EvaluationKey, file_name
from advdpnp.eval.store.model_folder import ModelFolder, open_model
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.schema import FOUND, KEY, read_verdicts

NET = ModelRecord("my net", "ab" * 32, "small-cnn", "ce", 10, ("a", "b"), "digits")
UNIT = EvaluationKey("pgd-20", "d" * 64, ThreatModel.parse("linf", "8/255"), {"attack": {"steps": 20}, "seed": 0})
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
        "sample": index, "label": index % 10, "clean_prediction": index % 10, "adversarial_prediction": index % 7,
        "success": index % 2 == 0, "norm": index / 100, "margin": (index / 7).astype(np.float32),
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


def test_a_complete_unit_is_one_sorted_file_with_key_and_metadata(tmp_path: Path) -> None:
    with open_model(tmp_path, NET) as folder:
        frame = fill(folder, range(20))
    (path,) = tmp_path.glob("my_net-abababab/*.parquet")
    assert path.name.startswith("pgd-20@linf-8_255-")
    assert list(frame.columns) == [*KEY.names, *FOUND.names]
    assert frame["sample"].tolist() == list(range(20))
    assert set(frame["eps_text"]) == {"8/255"}
    assert set(frame["eps"]) == {8 / 255}
    assert frame["margin"].dtype == np.float32
    info = json.loads(pq.read_schema(path).metadata[b"advdpnp"])
    assert info["identity"]["attack"] == {"steps": 20}
    assert info["runs"][0]["samples"] == 20
    assert not path.with_suffix(".parts").exists()


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
        assert len(list(folder.path.glob("*.parquet"))) == 1


def test_parts_left_by_a_process_killed_after_compaction_count_once(tmp_path: Path) -> None:
    with open_model(tmp_path, NET) as folder:
        interrupt(folder, list(range(6)), 6)
        parts = folder.parts_folder(UNIT)
        kept = {path.name: path.read_bytes() for path in parts.iterdir()}
        with folder.writer(UNIT, np.arange(6), FACTS):
            pass
        parts.mkdir()
        for name, content in kept.items():
            (parts / name).write_bytes(content)
        assert folder.stored(UNIT).tolist() == list(range(6))


def test_an_attack_that_leaves_samples_out_is_named(tmp_path: Path) -> None:
    with (
        open_model(tmp_path, NET) as folder,
        pytest.raises(AdvdpnpError, match=r"pgd-20 gave no verdict for 2 of 5 samples"),
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
        EvaluationKey("pgd-20", "d" * 64, UNIT.threat, {"attack": {"steps": 20}, "seed": 1}),
        EvaluationKey("pgd-20", "d" * 64, UNIT.threat, {"attack": {"steps": 40}, "seed": 0}),
        EvaluationKey("pgd-20", "e" * 64, UNIT.threat, UNIT.definition),
        EvaluationKey("pgd-20", "d" * 64, ThreatModel.parse("linf", "4/255"), UNIT.definition),
        EvaluationKey("pgd-20", "d" * 64, ThreatModel.parse("l2", "8/255"), UNIT.definition),
    ]
    assert len({unit.hash for unit in units}) == len(units)


def test_the_same_eps_written_otherwise_is_the_same_unit(tmp_path: Path) -> None:
    one, other = (EvaluationKey("fgsm", "d" * 64, ThreatModel.parse("linf", text), {}) for text in ("1/10", "0.1"))
    with open_model(tmp_path, NET) as folder:
        interrupt(folder, [0], 2, one)
        assert folder.stored(other).tolist() == [0]
        fill(folder, range(2), other)
        assert folder.is_complete(one, np.arange(2))


def test_a_flipped_bit_is_seen_wherever_it_is_among_the_values(tmp_path: Path) -> None:
    with open_model(tmp_path, NET) as folder:
        expected = fill(folder, range(200))
        path = folder.complete_path(UNIT)
        whole = path.read_bytes()
        end = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")  # where the footer begins
        seen = 0
        for place in range(4, end, 7):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            try:
                pd.testing.assert_frame_equal(folder.read(UNIT).frame, expected)
            except AdvdpnpError:
                seen += 1
        assert seen > 0.5 * len(range(4, end, 7))


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing", "truncated", "no text"])
def test_a_damaged_file_is_named_in_one_sentence(tmp_path: Path, content: bytes | str) -> None:
    with open_model(tmp_path, NET) as folder:
        fill(folder, range(5))
        path = folder.complete_path(UNIT)
        if content == "no text":
            table = pq.read_table(path)
            words = pa.array([b"l\xc4f"] * len(table)).view(pa.string()).dictionary_encode()
            place = table.column_names.index("threat_norm")
            pq.write_table(table.set_column(place, table.schema.field(place), words), path)
        else:
            path.write_bytes(path.read_bytes()[:-20] if isinstance(content, str) else content)
        with pytest.raises(AdvdpnpError, match="is damaged; delete it") as error:
            folder.stored(UNIT)
    assert str(path) in str(error.value)


def test_a_foreign_parquet_file_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(AdvdpnpError, match="not a verdict file"):
        read_verdicts(tmp_path / "x.parquet")


def test_left_over_temporary_files_are_removed(tmp_path: Path) -> None:
    with open_model(tmp_path, NET) as folder:
        left = folder.path / ".pgd.parquet.abc.tmp"
        left.write_bytes(b"half")
    with open_model(tmp_path, NET):
        assert not left.exists()


def test_readers_do_not_take_a_file_that_is_being_written_for_the_unit(tmp_path: Path) -> None:
    """Other processes look at the folder without its lock."""
    with open_model(tmp_path, NET) as folder:
        fill(folder, range(4))
        path = folder.complete_path(UNIT)
        for place in (path, folder.parts_folder(UNIT)):
            (tmp_path / f".{place.name}.0aaaaaaa.tmp").write_bytes(b"half")
        here = ModelFolder(tmp_path, NET)
        assert here.complete_path(UNIT) == tmp_path / path.name


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
        (path,) = folder.path.glob("*.examples.npz")
    stored = read_arrays(path)
    assert stored["sample"].tolist() == list(range(8))
    np.testing.assert_allclose(stored["x"][:, 0, 0, 0], np.arange(8) / 100, atol=1e-7)
    assert stored["x_adv"].dtype == np.float32


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the administrator can write everywhere")
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(AdvdpnpError, match="cannot write"), open_model(tmp_path, NET):
        pass


def test_file_names_are_safe_everywhere() -> None:
    assert file_name("robustbench:L2/Engstrom 2019") == "robustbench_L2_Engstrom_2019"
    assert file_name("...") == "_"


def test_files_of_before_stages_were_told_are_read_and_continued(tmp_path: Path) -> None:
    with open_model(tmp_path, NET) as folder:
        fill(folder, range(4))
        path = folder.complete_path(UNIT)
        table = pq.read_table(path)
        pq.write_table(table.drop_columns(["stage", "refused"]), path)
        assert read_verdicts(path).frame["stage"].tolist() == [-1] * 4
        frame = fill(folder, range(6))
    assert frame["refused"].tolist() == [-1, -1, -1, -1, 0, 0]
