"""``advdpnp corrupt`` writes what readers of the official files read, and nothing over anybody's files."""

import errno
import json
from io import FileIO

import numpy as np
import pytest
from PIL import Image

from advdpnp.base.files import folder_lock
from advdpnp.cli import run
from advdpnp.corruption import corrupt, export
from advdpnp.datasets import load_dataset


def test_files_in_the_official_layout(tmp_path, capsys):
    out = tmp_path / "digits-c"
    assert (
        run(["corrupt", "--dataset", "digits", "--types", "fog, gaussian_noise", "--limit", "7", "--out", str(out)])
        == 0
    )
    assert "3 files in" in capsys.readouterr().out
    assert Image.open(out / "sheet.png").size > (300, 100)
    test = load_dataset("digits", train=False).test.head(7)
    labels = np.load(out / "labels.npy")
    assert labels.dtype == np.uint8
    assert labels.tolist() == test.labels.tolist() * 5
    for name in ("fog", "gaussian_noise"):
        stored = np.load(out / f"{name}.npy")
        assert stored.dtype == np.uint8
        assert stored.shape == (35, *test.images.shape[2:], 1)
        for severity in (1, 5):
            block = stored[7 * (severity - 1) : 7 * severity].transpose(0, 3, 1, 2)
            assert np.array_equal(block, corrupt(test.images, name, severity).numpy())
    assert "regenerated" in json.loads((out / "regenerated.json").read_text(encoding="utf-8"))["data"]


def corrupt_digits(out, types, limit=4, *options):
    return run(["corrupt", "--dataset", "digits", "--types", types, "--limit", str(limit), "--out", str(out), *options])


def test_one_call_after_another_fills_a_folder_and_its_sheet(tmp_path):
    assert corrupt_digits(tmp_path / "both", "snow,fog") == 0
    assert corrupt_digits(tmp_path / "one", "snow") == 0
    assert corrupt_digits(tmp_path / "one", "fog") == 0
    assert corrupt_digits(tmp_path / "one", "fog") == 0
    assert (tmp_path / "one" / "sheet.png").read_bytes() == (tmp_path / "both" / "sheet.png").read_bytes()


def test_a_folder_holds_one_seed_and_one_set_of_images(tmp_path, capsys):
    out = tmp_path / "digits-c"
    assert corrupt_digits(out, "fog", 4, "--seed", "1") == 0
    marker = (out / "regenerated.json").read_bytes()
    assert corrupt_digits(out, "snow") == 2
    assert "contains corruptions of seed 1, not 0; choose another folder" in capsys.readouterr().err
    (out / "labels.npy").unlink()  # as after a kill: the marker alone tells
    assert corrupt_digits(out, "snow", 5, "--seed", "1") == 2
    assert "corruptions of other images" in capsys.readouterr().err
    assert not (out / "snow.npy").exists()
    assert (out / "regenerated.json").read_bytes() == marker
    (out / "regenerated.json").write_text("{}")
    assert corrupt_digits(out, "snow", 4, "--seed", "1") == 2
    assert "does not describe the files in its folder" in capsys.readouterr().err


def test_the_folder_is_no_file(tmp_path, capsys):
    (tmp_path / "afile").write_text("mine")
    assert corrupt_digits(tmp_path / "afile", "fog") == 2
    assert "is a file; give a folder" in capsys.readouterr().err
    assert (tmp_path / "afile").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--types", "fogg"], "fogg"),
        (["--types", ","], "no corruption is named"),
        (["--dataset", "digitz"], "digitz"),
    ],
)
def test_wrong_words(tmp_path, capsys, arguments, sentence):
    assert run(["corrupt", "--dataset", "digits", "--limit", "3", *arguments, "--out", str(tmp_path / "made")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_official_files_are_left_alone(tmp_path, capsys):
    np.save(tmp_path / "labels.npy", np.zeros(50_000, dtype=np.uint8))
    assert run(["corrupt", "--dataset", "digits", "--limit", "3", "--out", str(tmp_path)]) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["labels.npy"]


WORDS = ["corrupt", "--dataset", "digits", "--types", "fog", "--limit", "3", "--out"]


def test_a_disk_that_runs_full_is_an_error_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    """Through a memory map it would be a signal that ends the program without a word."""

    class Full(FileIO):
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "open", Full, raising=False)
    assert run([*WORDS, str(tmp_path / "made")]) == 2
    said = capsys.readouterr().err
    assert "the disk is full" in said
    assert "fog.npy was not written" in said
    assert not list((tmp_path / "made").glob("*fog*"))


def test_two_at_once_are_refused_and_what_a_killed_one_left_is_cleared_away(tmp_path, capsys):
    left = tmp_path / "made" / ".fog.npy.abcdefgh.tmp"
    with folder_lock(tmp_path / "made"):
        assert run([*WORDS, str(tmp_path / "made")]) == 2
        assert "another process is writing" in capsys.readouterr().err
    left.write_bytes(b"half")
    assert run([*WORDS, str(tmp_path / "made")]) == 0
    assert not left.exists()
