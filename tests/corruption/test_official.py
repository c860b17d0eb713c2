"""The official files, where a table's corrupted images come from, and files written in the official layout."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advdpnp.base.errors import AdvdpnpError
from advdpnp.corruption import (
    BENCHMARK,
    EXTRA,
    SEVERITIES,
    corrupt,
    corruption_cells,
    export_corruptions,
    find_official,
)  # fmt: skip
from advdpnp.datasets.base import Dataset, Split

COUNT = 4


@pytest.fixture
def dataset(make_images):
    test = Split(make_images(COUNT, 3, 32), torch.tensor([3, 8, 8, 0]))
    return Dataset("cifar10", tuple("abcdefghij"), test.head(0), test.head(0), test)


@pytest.fixture
def root(tmp_path, dataset):
    """A data root with a small release: type number t at severity s is filled with 10 t + s."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    for number, name in enumerate(BENCHMARK):
        images = np.empty((5 * COUNT, 32, 32, 3), np.uint8)
        for severity in SEVERITIES:
            images[(severity - 1) * COUNT : severity * COUNT] = 10 * number + severity
        images[:, 0, 0, 1] = np.tile(np.arange(COUNT), 5)  # which image, in the green of the first pixel
        np.save(folder / f"{name}.npy", images)
    np.save(folder / "labels.npy", np.tile(dataset.test.labels.numpy().astype(np.uint8), 5))
    return tmp_path


def test_cells_come_in_order_with_channels_first(root):
    official = find_official("cifar10", root)
    assert official.label == "cifar10-c"
    assert official.labels.tolist() == [3, 8, 8, 0]
    images = official.images("motion_blur", 4)
    assert images.shape == (COUNT, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert (images[:, 0] == 10 * BENCHMARK.index("motion_blur") + 4).all()
    assert images[:, 1, 0, 0].tolist() == [0, 1, 2, 3]
    assert official.images("motion_blur", 4, torch.tensor([2, 0]))[:, 1, 0, 0].tolist() == [2, 0]


def test_no_folder_and_no_release_mean_none(tmp_path, root):
    assert find_official("cifar10", tmp_path / "elsewhere") is None
    assert find_official("mnist", root) is None


def test_auto_takes_the_official_files_where_they_are(root, dataset):
    source = corruption_cells("auto", dataset, root)
    assert source.label == "cifar10-c"
    assert len(source.cells) == 75
    assert source.cells[:6] == [*(("gaussian_noise", s) for s in SEVERITIES), ("shot_noise", 1)]
    assert (source.images("fog", 2, torch.tensor([1]))[:, 0] == 10 * BENCHMARK.index("fog") + 2).all()


def test_a_folder_in_another_spelling_is_found(root):
    (root / "CIFAR-10-C").rename(root / "cifar-10-c")
    found = find_official("cifar10", root)
    assert found is not None
    assert found.folder == root / "cifar-10-c"


def test_auto_regenerates_where_they_are_not_and_says_so(tmp_path, dataset):
    source = corruption_cells("auto", dataset, tmp_path, seed=4)
    assert source.label == "cifar10-c (regenerated)"
    assert len(source.cells) == 75
    sample = torch.tensor([2, 1])
    expected = corrupt(dataset.test.images, "glass_blur", 3, seed=4)[sample]
    assert torch.equal(source.images("glass_blur", 3, sample), expected)
    definition = source.definition("glass_blur", 3)
    assert json.loads(json.dumps(definition)) == {**definition, "constants": list(definition["constants"])}
    assert definition != source.definition("glass_blur", 4)
    assert definition != corruption_cells("auto", dataset, tmp_path, seed=5).definition("glass_blur", 3)


def test_other_data_sets_are_labelled_by_their_own_name(tmp_path, make_images):
    test = Split(make_images(2, 1, 28), torch.tensor([0, 1]))
    dataset = Dataset("npz:some/where.npz", ("a", "b"), test.head(0), test.head(0), test, label="npz-where")
    source = corruption_cells("auto", dataset, tmp_path, types="all")
    assert source.label == "npz-where-c (regenerated)"
    assert len(source.cells) == 95
    assert source.images("fog", 1, torch.tensor([1])).shape == (1, 1, 28, 28)
    with pytest.raises(AdvdpnpError, match="no official corruptions of npz:"):
        corruption_cells("cifar10-c", dataset, tmp_path)


def test_none_is_none_and_other_modes_are_named(root, dataset):
    assert corruption_cells("none", dataset, root) is None
    assert corruption_cells("regenerated", dataset, root).label == "cifar10-c (regenerated)"
    with pytest.raises(AdvdpnpError, match="choose one of none, auto"):
        corruption_cells("cifar10c", dataset, root)
    with pytest.raises(AdvdpnpError, match="belongs to cifar100"):
        corruption_cells("cifar100-c", dataset, root)


def test_the_data_root_of_the_environment_is_used(root, dataset, monkeypatch):
    monkeypatch.setenv("ADVDPNP_DATA", str(root))
    assert corruption_cells("auto", dataset).label == "cifar10-c"


def test_a_missing_folder_is_named_with_where_to_get_it(tmp_path, dataset):
    with pytest.raises(AdvdpnpError, match=r"CIFAR-10-C.*zenodo.org/records/2535967"):
        corruption_cells("cifar10-c", dataset, tmp_path)


@pytest.mark.parametrize("mode", ["auto", "cifar10-c"])
def test_missing_files_are_named_and_never_mixed_with_regenerated_ones(mode, root, dataset):
    (root / "CIFAR-10-C" / "fog.npy").unlink()
    (root / "CIFAR-10-C" / "snow.npy").unlink()
    with pytest.raises(
        AdvdpnpError, match=r"lacks snow.npy, fog.npy; get them from https://zenodo.org/records/2535967"
    ):
        corruption_cells(mode, dataset, root)


def test_the_extra_types_are_asked_for_only_where_wanted(root, dataset):
    with pytest.raises(AdvdpnpError, match=r"lacks speckle_noise.npy, gaussian_blur.npy"):
        corruption_cells("auto", dataset, root, types="all")


SHAPES = st.lists(st.sampled_from([0, 1, 3, 4, 20, 32]), max_size=5).map(tuple)
TYPES = st.sampled_from(["u1", "i8", ">u8", "f4", "?", "U3", "O", "c8", "M8[s]", [("a", "u1"), ("b", "f4")]])


@settings(max_examples=150, deadline=None, database=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.sampled_from(["fog", "labels"]), SHAPES, TYPES, st.booleans(), st.integers(0, 200), st.data())
def test_an_array_of_any_kind_is_read_or_one_sentence(root, dataset, name, shape, kind, fortran, cut, data):
    path = root / "CIFAR-10-C" / f"{name}.npy"
    whole = path.read_bytes()
    try:
        if data.draw(st.booleans()):
            array = np.zeros(shape, kind, "F" if fortran else "C")
            np.save(path, array, allow_pickle=True)
        else:  # bytes of the header are others
            place, byte = data.draw(st.integers(0, 127)), data.draw(st.binary(min_size=1, max_size=3))
            path.write_bytes(whole[:place] + byte + whole[place + len(byte) :][: len(whole) - cut])
        corruption_cells("cifar10-c", dataset, root).images("fog", 1, torch.arange(4))
    except AdvdpnpError as error:
        said = str(error)
        assert str(root) in said
        assert len(said) < 1000
        assert said.isprintable()
    finally:
        path.write_bytes(whole)


def test_an_archive_and_a_pipe_are_one_sentence(root, dataset):
    path = root / "CIFAR-10-C" / "fog.npy"
    path.unlink()
    os.mkfifo(path)
    assert find_official("cifar10", root).missing(["fog"]) == ["fog.npy"]
    with pytest.raises(AdvdpnpError, match=r"lacks fog.npy"):
        corruption_cells("cifar10-c", dataset, root)
    path.unlink()
    with open(path, "wb") as stream:
        np.savez(stream, a=np.zeros(3))
    with pytest.raises(AdvdpnpError, match="is an archive"):
        corruption_cells("cifar10-c", dataset, root)


@pytest.mark.parametrize("keep", [0, 60, 5000])
def test_a_truncated_file_is_one_sentence(keep, root, dataset):
    path = root / "CIFAR-10-C" / "fog.npy"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(AdvdpnpError, match=r"fog.npy is damaged.*get it again from https://zenodo.org"):
        corruption_cells("cifar10-c", dataset, root)


def test_a_file_that_would_run_code_is_refused(root, dataset):
    np.save(root / "CIFAR-10-C" / "fog.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(AdvdpnpError, match=r"fog.npy is damaged"):
        corruption_cells("cifar10-c", dataset, root)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((20, 32, 32, 3), np.float32), "must hold uint8 images.*float32"),
        (np.zeros((20, 32, 32), np.uint8), "must hold uint8 images"),
        (np.zeros((15, 32, 32, 3), np.uint8), "has 15 images but .*labels.npy 20 labels"),
    ],
)
def test_a_file_of_another_kind_is_one_sentence(array, message, root, dataset):
    np.save(root / "CIFAR-10-C" / "fog.npy", array)
    with pytest.raises(AdvdpnpError, match=message):
        corruption_cells("cifar10-c", dataset, root)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(7, np.uint8), "five severities"),
        (np.zeros(20, np.float32), "five severities"),
        (np.arange(20, dtype=np.uint8), "differs between severities"),
        (np.zeros(20, np.uint8), "does not agree with the labels of cifar10"),
    ],
)
def test_wrong_labels_are_one_sentence(labels, message, root, dataset):
    np.save(root / "CIFAR-10-C" / "labels.npy", labels)
    with pytest.raises(AdvdpnpError, match=message):
        corruption_cells("cifar10-c", dataset, root)


def test_a_changed_file_is_another_definition(root, dataset):
    before = corruption_cells("cifar10-c", dataset, root).definition("fog", 1)
    path = root / "CIFAR-10-C" / "fog.npy"
    images = np.load(path)
    images[0, 5, 5] += 1
    np.save(path, images)
    after = corruption_cells("cifar10-c", dataset, root).definition("fog", 1)
    assert before != after


def test_written_files_have_the_official_layout_and_never_pass_for_official(tmp_path, dataset):
    folder = tmp_path / "CIFAR-10-C"
    done = []
    files = export_corruptions(
        dataset.test, "cifar10", folder, names=("fog", *EXTRA[:1]), seed=2, progress=lambda *cell: done.append(cell)
    )
    assert [path.name for path in files] == ["fog.npy", "speckle_noise.npy", "labels.npy"]
    assert done == [(name, s) for name in ("fog", "speckle_noise") for s in SEVERITIES]
    stored = np.load(folder / "fog.npy")
    assert stored.dtype == np.uint8
    assert stored.shape == (5 * COUNT, 32, 32, 3)
    expected = corrupt(dataset.test.images, "fog", 3, seed=2).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(stored[2 * COUNT : 3 * COUNT], expected)
    np.testing.assert_array_equal(np.load(folder / "labels.npy"), np.tile([3, 8, 8, 0], 5))
    assert json.loads((folder / "regenerated.json").read_text())["seed"] == 2
    assert find_official("cifar10", tmp_path) is None
    assert corruption_cells("auto", dataset, tmp_path).label == "cifar10-c (regenerated)"
    with pytest.raises(AdvdpnpError, match="no folder"):
        corruption_cells("cifar10-c", dataset, tmp_path)


def test_unknown_types_are_not_written(tmp_path, dataset):
    with pytest.raises(AdvdpnpError, match="no corruption called"):
        export_corruptions(dataset.test, "cifar10", tmp_path / "out", names=("fogg",))
    assert not (tmp_path / "out").exists()


def test_images_of_another_size_or_an_archive_are_one_sentence(root, dataset):
    path = root / "CIFAR-10-C" / "fog.npy"
    for shape in ((5 * COUNT, 28, 28, 3), (5 * COUNT, 32, 32, 1)):
        np.save(path, np.zeros(shape, np.uint8))
        with pytest.raises(AdvdpnpError, match=r"fog\.npy are .* those of cifar10"):
            corruption_cells("cifar10-c", dataset, root)
    with open(path, "wb") as stream:
        np.savez(stream, np.zeros(3))
    with pytest.raises(AdvdpnpError, match="is an archive, not a"):
        corruption_cells("cifar10-c", dataset, root)


def test_images_too_small_for_corruptions_are_refused_before_any_work(tmp_path, dataset):
    small = replace(dataset, test=Split(dataset.test.images[:, :, :7, :7], dataset.test.labels))
    with pytest.raises(AdvdpnpError, match="too small"):
        corruption_cells("regenerated", small, tmp_path)


def test_files_without_labels_are_other_peoples_too(tmp_path, dataset):
    np.save(tmp_path / "fog.npy", np.zeros(3))
    with pytest.raises(AdvdpnpError, match="advdpnp did not write"):
        export_corruptions(dataset.test, dataset.label, tmp_path, names=["fog"])
    assert np.load(tmp_path / "fog.npy").shape == (3,)


def test_other_peoples_files_and_other_images_are_never_mixed_in(tmp_path, dataset):
    np.save(tmp_path / "labels.npy", np.zeros(30, dtype=np.uint8))
    with pytest.raises(AdvdpnpError, match="advdpnp did not write"):
        export_corruptions(dataset.test, dataset.label, tmp_path, names=["fog"])
    (tmp_path / "labels.npy").unlink()
    export_corruptions(dataset.test, dataset.label, tmp_path, names=["fog"])
    with pytest.raises(AdvdpnpError, match="corruptions of other images"):
        export_corruptions(dataset.test.head(2), dataset.label, tmp_path, names=["fog"])
