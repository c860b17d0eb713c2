"""The split of MNIST's test images: what is read from IDX files, and who goes where."""

import gzip
import importlib
from pathlib import Path

import numpy as np
import pytest

import advdpnp
from advdpnp.base.errors import AdvdpnpError


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(advdpnp.__file__).resolve().parent.parent))
    return importlib.import_module("benchmarks.mnist_split")


def idx(array: np.ndarray) -> bytes:
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return b"\x00\x00\x08" + bytes([array.ndim]) + lengths + array.tobytes()


def test_an_idx_file_is_read_as_it_was_written(script, tmp_path):
    for shape in ((5,), (3, 4, 2)):
        array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array)))
        assert np.array_equal(script.read_idx(tmp_path / "a.gz"), array)


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00", idx(np.zeros(9, np.uint8))[:-1]])
def test_other_files_are_one_sentence(script, content, tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    with pytest.raises(AdvdpnpError, match="no IDX file of bytes, or truncated"):
        script.read_idx(tmp_path / "a.gz")
    with pytest.raises(AdvdpnpError, match="cannot read"):
        script.read_idx(tmp_path / "missing.gz")


def test_every_image_is_in_one_part_and_both_have_all_classes_alike(script):
    labels = np.repeat(np.arange(4, dtype=np.uint8), [10, 20, 30, 40])
    images = np.arange(100, dtype=np.uint8)[:, None, None]
    parts = script.split(images, labels, 20, seed=0)
    both = np.concatenate([parts["x_train"], parts["x_test"]]).ravel()
    assert sorted(both) == list(range(100))
    assert np.bincount(parts["y_test"]).tolist() == [2, 4, 6, 8]
    for part in ("train", "test"):
        assert np.array_equal(labels[parts[f"x_{part}"].ravel()], parts[f"y_{part}"])
