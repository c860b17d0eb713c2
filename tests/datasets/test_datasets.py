"""Data sets: what is loaded, how it is split, and what a user reads when it cannot be loaded."""

import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from advdpnp.base.errors import AdvdpnpError
from advdpnp.datasets import Dataset, Split, load_dataset, to_float
from advdpnp.datasets.base import safe_label, shuffled, stratified
from advdpnp.datasets.torchvision_sets import SOURCES

real_data = pytest.mark.skipif(
    not (Path(os.environ.get("ADVDPNP_DATA", "")) / "cifar-10-batches-py").is_dir(),
    reason="ADVDPNP_DATA names no folder with cifar-10-batches-py",
)


def sentence(error: pytest.ExceptionInfo[AdvdpnpError]) -> str:
    """The message, after checking that it is one line and offers something to do."""
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 600
    assert re.search(r"; |did you mean|known:", text)
    return text


def rows(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


class TestSplit:
    def make(self) -> Split:
        return Split(torch.arange(48, dtype=torch.uint8).reshape(2, 2, 3, 4), torch.tensor([0, 1]))

    def test_the_hash_changes_with_a_pixel_a_label_and_a_shape(self) -> None:
        split = self.make()
        pixel = split.images.clone()
        pixel[1, 1, 2, 3] += 1
        others = [
            Split(pixel, split.labels),
            Split(split.images, torch.tensor([1, 1])),
            Split(split.images.reshape(2, 2, 4, 3), split.labels),
            split.head(1),
        ]
        hashes = {split.content_hash, *(other.content_hash for other in others)}
        assert len(hashes) == 5
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in hashes)

    def test_the_hash_does_not_depend_on_the_memory_layout(self) -> None:
        split = self.make()
        layout = Split(split.images.to(memory_format=torch.channels_last), split.labels)
        assert layout.content_hash == split.content_hash == self.make().content_hash

    def test_head_takes_the_first_and_all_when_there_are_fewer(self) -> None:
        split = self.make()
        assert len(split.head(1)) == 1
        assert len(split.head(9)) == len(split.head(None)) == 2
        assert len(split.head(0)) == 0

    def test_images_become_floats_in_the_unit_interval(self) -> None:
        x = to_float(torch.tensor([0, 51, 255], dtype=torch.uint8))
        assert x.dtype == torch.float32
        assert x.tolist() == pytest.approx([0, 0.2, 1])


class TestStratified:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.floats(0, 1), st.integers(0, 2**40))
    def test_it_picks_the_number_asked_for_in_equal_shares(self, labels: list[int], part: float, key: int) -> None:
        y = torch.tensor(labels)
        count = int(part * len(y))
        picked, others = stratified(y, count, key)
        assert len(picked) == count
        assert sorted([*picked.tolist(), *others.tolist()]) == list(range(len(y)))
        assert others.tolist() == sorted(others.tolist())
        for label in range(int(y.max()) + 1):
            share = float((y == label).sum()) * count / len(y)
            assert abs(int((y[picked] == label).sum()) - share) <= 1

    def test_a_key_decides_it(self) -> None:
        y = torch.arange(100) % 5
        assert torch.equal(stratified(y, 20, 1)[0], stratified(y, 20, 1)[0])
        assert not torch.equal(stratified(y, 20, 1)[0], stratified(y, 20, 2)[0])

    def test_shuffling_is_pinned_for_all_time(self) -> None:
        """Test splits of folders and digits rest on it: if it changes, published numbers mean something else."""
        assert shuffled(8, 1).tolist() == [2, 6, 0, 7, 3, 5, 1, 4]


class TestDigits:
    def test_sizes_types_and_names(self, digits: Dataset) -> None:
        assert [len(digits.train), len(digits.validation), len(digits.test)] == [1300, 137, 360]
        assert digits.train.images.dtype == torch.uint8
        assert digits.train.labels.dtype == torch.int64
        assert digits.image_size == (32, 32)
        assert (digits.channels, digits.classes, digits.label) == (1, 10, "digits")
        assert digits.augmentation == "crop"
        assert digits.train.images.max() == 255

    def test_the_splits_share_no_image(self, digits: Dataset) -> None:
        assert len(rows(digits.train) | rows(digits.validation) | rows(digits.test)) == 1797

    def test_the_splits_are_stratified(self, digits: Dataset) -> None:
        for split in (digits.train, digits.validation, digits.test):
            counts = torch.bincount(split.labels, minlength=10)
            assert counts.max() - counts.min() <= 0.06 * len(split) / 10 + 2

    def test_the_first_test_images_mix_the_classes(self, digits: Dataset) -> None:
        assert len(digits.test.head(60).labels.unique()) == 10

    def test_the_test_images_are_the_same_for_every_seed(self, digits: Dataset) -> None:
        other = load_dataset("digits", seed=1)
        assert other.test.content_hash == digits.test.content_hash
        assert other.test.content_hash.startswith("be5f90603f26")
        assert other.validation.content_hash != digits.validation.content_hash

    def test_loading_again_gives_the_same(self, digits: Dataset) -> None:
        again = load_dataset("digits")
        assert again.train.content_hash == digits.train.content_hash
        assert again.validation.content_hash == digits.validation.content_hash

    def test_fewer_validation_images_can_be_asked_for(self) -> None:
        dataset = load_dataset("digits", validation=50)
        assert [len(dataset.validation), len(dataset.train)] == [50, 1387]
        assert len(load_dataset("digits", validation=0).validation) == 0

    def test_without_training_images(self, digits: Dataset) -> None:
        dataset = load_dataset("digits", train=False)
        assert len(dataset.train) == len(dataset.validation) == 0
        assert dataset.test.content_hash == digits.test.content_hash
        assert dataset.classes == 10
        with pytest.raises(AdvdpnpError) as error:
            _ = dataset.mean
        assert "train=True" in sentence(error)

    def test_mean_and_std_are_those_of_the_training_images(self, digits: Dataset) -> None:
        x = digits.train.images.double() / 255
        assert digits.mean == pytest.approx([float(x.mean())], abs=1e-12)
        assert digits.std == pytest.approx([float(x.std(correction=0))], abs=1e-12)

    def test_the_images_are_the_scans_enlarged(self, digits: Dataset) -> None:
        """Against PIL's bilinear enlargement: every image is one of the scans, with its label."""
        from sklearn.datasets import load_digits

        known = {}
        for scan, label in zip(*load_digits(return_X_y=True), strict=True):
            small = Image.fromarray(scan.reshape(8, 8).astype(np.float32))
            large = np.asarray(small.resize((32, 32), Image.Resampling.BILINEAR)) * 255 / 16
            known[np.round(large).astype(np.uint8).tobytes()] = int(label)
        for split in (digits.train, digits.validation, digits.test):
            assert [known[image.numpy().tobytes()] for image in split.images] == split.labels.tolist()

    def test_the_global_generators_are_left_alone(self) -> None:
        before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
        load_dataset("digits")
        assert torch.equal(torch.random.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()


class TestNames:
    @pytest.mark.parametrize(
        ("spec", "label"),
        [
            ("cifar10", "cifar10"),
            ("npz:/a/my file.npz", "npz-my-file"),
            ("folder:/a/été/", "folder-t"),
            ("npz:../../x", "npz-x"),
        ],
    )
    def test_labels_are_safe_in_file_names(self, spec: str, label: str) -> None:
        assert safe_label(spec) == label

    def test_an_unknown_name_is_answered_with_near_ones(self) -> None:
        with pytest.raises(AdvdpnpError) as error:
            load_dataset("cifar11")
        assert "cifar10" in sentence(error)

    def test_nonsense_numbers_are_refused(self) -> None:
        for arguments in ({"validation": -1}, {"image_size": 0}, {"image_size": (32, -1)}, {"image_size": 32}):
            with pytest.raises(AdvdpnpError) as error:
                load_dataset("digits", **arguments)  # type: ignore[arg-type]
            sentence(error)


class TestTorchvisionSets:
    @pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.spec)
    def test_missing_data_are_explained(self, source: Any, tmp_path: Path) -> None:
        with pytest.raises(AdvdpnpError) as error:
            load_dataset(source.spec, data_root=tmp_path)
        text = sentence(error)
        assert f"{source.title} is not in {tmp_path}" in text
        assert "; add --download (train, eval" in text
        assert "--data-root" in text
        assert "ADVDPNP_DATA" in text
        assert source.files[0] in text

    @pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.spec)
    def test_damaged_data_are_told_from_missing_ones(self, source: Any, tmp_path: Path) -> None:
        for name in source.files:
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if "." in name:
                file.write_bytes(b"half a file")
            else:
                file.mkdir()
        with pytest.raises(AdvdpnpError) as error:
            load_dataset(source.spec, data_root=tmp_path)
        text = sentence(error)
        assert "damaged or incomplete" in text
        assert "--download" in text

    @real_data
    def test_one_wrong_byte_counts_as_damage(self, tmp_path: Path) -> None:
        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        for file in (Path(os.environ["ADVDPNP_DATA"]) / folder.name).iterdir():
            (folder / file.name).symlink_to(file.resolve())
        content = bytearray((folder / "test_batch").read_bytes())
        content[-1000] ^= 1
        (folder / "test_batch").unlink()
        (folder / "test_batch").write_bytes(content)
        with pytest.raises(AdvdpnpError) as error:
            load_dataset("cifar10", data_root=tmp_path, train=False)
        assert "damaged" in sentence(error)

    def test_a_failed_download_is_one_sentence(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import torchvision.datasets

        def reader(**arguments: Any) -> None:
            assert arguments["download"]
            raise URLError("Temporary failure in name resolution")

        monkeypatch.setattr(torchvision.datasets, "CIFAR10", reader)
        with pytest.raises(AdvdpnpError) as error:
            load_dataset("cifar10", data_root=tmp_path, download=True)
        text = sentence(error)
        assert "could not be downloaded" in text
        assert "name resolution" in text

    def test_what_torchvision_prints_stays_out_of_stdout(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import torchvision.datasets

        def reader(**_: Any) -> SimpleNamespace:
            print("Downloading ...")
            return SimpleNamespace(data=np.zeros((10, 32, 32, 3), np.uint8), targets=list(range(10)), classes=range(10))

        monkeypatch.setattr(torchvision.datasets, "CIFAR10", reader)
        load_dataset("cifar10", data_root=tmp_path, download=True)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Downloading" in captured.err

    @pytest.mark.parametrize(("spec", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
    def test_idx_files_keep_their_size_and_order(self, spec: str, folder: str, tmp_path: Path) -> None:
        raw = tmp_path / folder / "raw"
        raw.mkdir(parents=True)
        generator = np.random.default_rng(0)
        written = {}
        for prefix, n in (("train", 100), ("t10k", 20)):
            x = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
            y = (np.arange(n) * 7 % 10).astype(np.uint8)
            (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, n, 28, 28) + x.tobytes())
            (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, n) + y.tobytes())
            written[prefix] = x, y
        dataset = load_dataset(spec, data_root=tmp_path)
        assert dataset.image_size == (28, 28)
        assert dataset.channels == 1
        assert np.array_equal(dataset.test.images[:, 0].numpy(), written["t10k"][0])
        assert dataset.test.labels.tolist() == written["t10k"][1].tolist()
        assert [len(dataset.train), len(dataset.validation)] == [80, 20]  # never more than a fifth is held out
        assert dataset.augmentation == {"mnist": "crop", "fashion-mnist": "crop-flip"}[spec]
        assert dataset.classes == 10

    def test_colour_images_become_nchw(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import torchvision.datasets

        x = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
        y = [i % 10 for i in range(50)]
        cifar = SimpleNamespace(data=x, targets=y, classes=[f"class {i}" for i in range(10)])
        svhn = SimpleNamespace(data=x.transpose(0, 3, 1, 2), labels=np.array(y))
        monkeypatch.setattr(torchvision.datasets, "CIFAR100", lambda **_: cifar)
        monkeypatch.setattr(torchvision.datasets, "SVHN", lambda **arguments: arguments["split"] and svhn)
        for spec, augmentation in (("cifar100", "crop-flip"), ("svhn", "crop")):
            dataset = load_dataset(spec, data_root=tmp_path)
            assert np.array_equal(dataset.test.images.numpy(), x.transpose(0, 3, 1, 2))
            assert dataset.test.images.is_contiguous()
            assert dataset.augmentation == augmentation
            assert dataset.classes == 10

    def test_flowers_are_cut_to_a_square_and_mixed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import torchvision.datasets

        def reader(
            *, split: str, transform: Callable[[Image.Image], np.ndarray], **_: Any
        ) -> list[tuple[np.ndarray, int]]:
            return [(transform(Image.new("RGB", (60, 40 + i % 9), (i, 0, 0))), i) for i in range(102)]

        monkeypatch.setattr(torchvision.datasets, "Flowers102", reader)
        dataset = load_dataset("flowers102", data_root=tmp_path, image_size=16)
        assert dataset.image_size == (16, 16)
        assert dataset.classes == 102
        assert len(dataset.train) + len(dataset.validation) == 204
        assert dataset.test.labels.tolist() != sorted(dataset.test.labels.tolist())
        assert torch.equal(dataset.test.images[:, 0, 8, 8].long(), dataset.test.labels)  # colour stayed with label

    @real_data
    def test_real_cifar10(self, monkeypatch: pytest.MonkeyPatch) -> None:
        dataset = load_dataset("cifar10")
        assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [49_000, 1_000, 10_000]
        assert torch.bincount(dataset.validation.labels).tolist() == [100] * 10
        assert dataset.test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
        assert dataset.class_names[0] == "airplane"
        assert dataset.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-4)
        assert dataset.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=5e-4)
        assert not rows(dataset.train) & rows(dataset.validation)


def save(path: Path, **changes: Any) -> Path:
    """A good file of 40 + 10 images (NHWC, 8x6 RGB, 4 classes), with some arrays replaced; None leaves one out."""
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "x_train": generator.integers(0, 256, (40, 8, 6, 3), dtype=np.uint8),
        "y_train": np.arange(40) % 4,
        "x_test": generator.integers(0, 256, (10, 8, 6, 3), dtype=np.uint8),
        "y_test": np.arange(10) % 4,
    }
    np.savez_compressed(path, **{key: array for key, array in (arrays | changes).items() if array is not None})
    return path


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("executed",))


class TestNpz:
    def test_all_layouts_mean_the_same(self, tmp_path: Path) -> None:
        with np.load(save(tmp_path / "nhwc.npz")) as arrays:
            x_train, x_test = arrays["x_train"], arrays["x_test"]
        channels_last = load_dataset(f"npz:{tmp_path / 'nhwc.npz'}")
        channels_first = save(
            tmp_path / "nchw.npz", x_train=x_train.transpose(0, 3, 1, 2), x_test=x_test.transpose(0, 3, 1, 2)
        )
        gray = save(tmp_path / "nhw.npz", x_train=x_train[..., 0], x_test=x_test[..., 0])
        assert channels_last.image_size == (8, 6)
        assert channels_last.channels == 3
        assert np.array_equal(channels_last.test.images.numpy(), x_test.transpose(0, 3, 1, 2))
        assert load_dataset(f"npz:{channels_first}").test.content_hash == channels_last.test.content_hash
        assert np.array_equal(load_dataset(f"npz:{gray}").test.images[:, 0].numpy(), x_test[..., 0])

    def test_splits_names_and_label(self, tmp_path: Path) -> None:
        names = np.array(["a", "b", "c", "d"])
        dataset = load_dataset(f"npz:{save(tmp_path / 'mine.npz', class_names=names)}")
        assert dataset.class_names == ("a", "b", "c", "d")
        assert dataset.label == "npz-mine"
        assert dataset.name == f"npz:{tmp_path / 'mine.npz'}"
        assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [32, 8, 10]
        assert torch.bincount(dataset.validation.labels).tolist() == [2, 2, 2, 2]
        assert load_dataset(f"npz:{save(tmp_path / 'mine.npz')}").class_names == ("0", "1", "2", "3")

    def test_test_images_alone_are_enough_to_evaluate(self, tmp_path: Path) -> None:
        whole = save(tmp_path / "whole.npz", y_test=np.zeros(10, int))
        part = save(tmp_path / "part.npz", x_train=None, y_train=None)
        assert load_dataset(f"npz:{whole}", train=False).classes == 4  # known from the labels of training
        assert load_dataset(f"npz:{part}", train=False).classes == 4
        with pytest.raises(AdvdpnpError) as error:
            load_dataset(f"npz:{part}")
        assert "no array 'x_train'" in sentence(error)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"y_test": None}, "no array 'y_test'"),
            ({"x_train": np.zeros((40, 8, 6, 3), np.float32)}, "* 255).astype('uint8')"),
            ({"x_train": np.zeros((40, 8, 6, 3), np.int64)}, ".astype('uint8')"),
            ({"x_train": np.zeros((40, 144), np.uint8)}, "(40, 144)"),
            ({"x_train": np.zeros((0, 8, 6, 3), np.uint8)}, "(0, 8, 6, 3)"),
            ({"x_train": np.zeros((40, 8, 6, 5), np.uint8)}, "neither 1 nor 3 channels"),
            ({"x_train": np.zeros((40, 3, 6, 3), np.uint8)}, "NCHW or NHWC"),
            ({"x_train": np.zeros((40, 6, 8, 3), np.uint8)}, "give both the same size"),
            ({"y_train": np.zeros(39, int)}, "40 images, y_train has 39 labels"),
            ({"y_train": np.arange(40) % 4 - 1}, "negative label -1"),
            ({"y_train": np.arange(40) % 4 / 2}, "whole numbers"),
            ({"y_train": np.zeros((40, 1), int)}, "y_train.ravel()"),
            ({"y_train": np.eye(40, 4, dtype=int)}, "argmax"),
            ({"x_train": np.ones((40, 8, 6, 3), bool)}, "save x_train.astype('uint8') * 255"),
            ({"y_train": np.array(["cat"] * 40)}, "whole numbers"),
            ({"y_train": np.arange(40) * 1000}, "39000"),
            ({"class_names": np.array(["a", "b"])}, "2 names"),
            ({"class_names": np.arange(4)}, "dtype=str"),
            ({"class_names": np.array(["a", "b", "c", "d"], dtype=object)}, "Python objects"),
            ({"x_train": np.array([None, "x"], dtype=object)}, "Python objects"),
        ],
    )
    def test_what_is_wrong_is_said(self, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
        file = save(tmp_path / "bad.npz", **changes)
        with pytest.raises(AdvdpnpError) as error:
            load_dataset(f"npz:{file}")
        text = sentence(error)
        assert words in text
        assert str(file) in text

    def test_no_code_of_the_file_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        inside = np.empty(1, dtype=object)
        inside[0] = Malicious()
        save(tmp_path / "array.npz", x_test=inside)
        (tmp_path / "bare.npz").write_bytes(pickle.dumps(Malicious()))
        for name in ("array", "bare"):
            with pytest.raises(AdvdpnpError) as error:
                load_dataset(f"npz:{name}.npz")
            assert "would run code" in sentence(error)
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize("kept", [0, 3, 60, 500, -1, -200])
    def test_a_truncated_file_is_damaged(self, kept: int, tmp_path: Path) -> None:
        file = save(tmp_path / "cut.npz")
        file.write_bytes(file.read_bytes()[:kept])
        with pytest.raises(AdvdpnpError) as error:
            load_dataset(f"npz:{file}")
        sentence(error)

    def test_flipped_bytes_are_found(self, tmp_path: Path) -> None:
        file = save(tmp_path / "flipped.npz")
        content = bytearray(file.read_bytes())
        content[2000:2010] = bytes(255 - byte for byte in content[2000:2010])
        file.write_bytes(content)
        with pytest.raises(AdvdpnpError) as error:
            load_dataset(f"npz:{file}")
        assert "damaged" in sentence(error)

    def test_missing_files_folders_and_single_arrays(self, tmp_path: Path) -> None:
        np.save(tmp_path / "single.npy", np.zeros(3))
        for path, words in (
            (tmp_path / "none.npz", "no file"),
            (tmp_path, "npz:PATH"),
            (tmp_path / "single.npy", "savez"),
        ):
            with pytest.raises(AdvdpnpError) as error:
                load_dataset(f"npz:{path}")
            assert words in sentence(error)


def draw(path: Path, colour: Any, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


class TestFolder:
    def fill(self, root: Path, n: int = 20) -> Path:
        for label, name in enumerate(("bee", "ant")):
            for i in range(n):
                draw(root / name / f"{i:02}.png", (i, 100 * label, 0))
        return root

    def test_a_fifth_of_each_class_is_for_testing(self, tmp_path: Path) -> None:
        dataset = load_dataset(f"folder:{self.fill(tmp_path / 'insects')}", validation=4)
        assert dataset.class_names == ("ant", "bee")
        assert dataset.label == "folder-insects"
        assert torch.bincount(dataset.test.labels).tolist() == [4, 4]
        assert torch.bincount(dataset.validation.labels).tolist() == [2, 2]
        assert len(rows(dataset.train) | rows(dataset.validation) | rows(dataset.test)) == 40
        assert dataset.image_size == (10, 12)

    def test_the_split_depends_on_no_seed_and_on_nothing_loaded_beside(self, tmp_path: Path) -> None:
        spec = f"folder:{self.fill(tmp_path)}"
        hashes = {
            load_dataset(spec, seed=seed, train=train).test.content_hash for seed in (0, 1) for train in (True, False)
        }
        assert len(hashes) == 1

    def test_labels_go_with_their_images(self, tmp_path: Path) -> None:
        dataset = load_dataset(f"folder:{self.fill(tmp_path)}")
        for split in (dataset.train, dataset.test):
            assert torch.equal((split.images[:, 1, 0, 0] == 0).long(), split.labels)  # bees (1) have no green

    def test_given_train_and_test_folders_are_kept(self, tmp_path: Path) -> None:
        self.fill(tmp_path / "train", 20)
        self.fill(tmp_path / "test", 6)
        dataset = load_dataset(f"folder:{tmp_path}", validation=0)
        assert [len(dataset.train), len(dataset.test)] == [40, 12]
        assert dataset.test.labels.tolist() != sorted(dataset.test.labels.tolist())

    @pytest.mark.parametrize("names", [("Train", "Test"), ("training", "testing"), ("TRAIN", "test")])
    def test_train_and_test_are_known_in_any_spelling(self, tmp_path: Path, names: tuple[str, str]) -> None:
        self.fill(tmp_path / names[0], 20)
        self.fill(tmp_path / names[1], 6)
        dataset = load_dataset(f"folder:{tmp_path}", validation=0)
        assert dataset.class_names == ("ant", "bee")
        assert [len(dataset.train), len(dataset.test)] == [40, 12]

    def test_images_in_hidden_folders_do_not_count(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        before = load_dataset(f"folder:{tmp_path}").test.content_hash
        draw(tmp_path / "ant" / ".ipynb_checkpoints" / "00-checkpoint.png", (1, 2, 3))
        assert load_dataset(f"folder:{tmp_path}").test.content_hash == before

    def test_images_that_are_to_be_turned_are_told_of(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.fill(tmp_path)
        turned = Image.new("RGB", (12, 10))
        exif = turned.getexif()
        exif[0x0112] = 6
        turned.save(tmp_path / "ant" / "turned.jpg", exif=exif)
        load_dataset(f"folder:{tmp_path}")
        assert "1 of 41 images ask to be turned" in caplog.text

    def test_names_of_classes_are_printable(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        (tmp_path / "ant").rename(tmp_path / "a\nnt\x1b[31m")
        assert load_dataset(f"folder:{tmp_path}").class_names == ("a\\nnt\\x1b[31m", "bee")

    def test_gray_stays_gray_and_one_coloured_file_makes_all_rgb(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            for i in range(5):
                draw(tmp_path / name / f"{i}.png", i, mode="L")
        assert load_dataset(f"folder:{tmp_path}").channels == 1
        draw(tmp_path / "a" / "colour.png", (1, 2, 3))
        assert load_dataset(f"folder:{tmp_path}").channels == 3

    def test_sizes_follow_most_files_up_to_a_limit(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        draw(tmp_path / "ant" / "big.jpg", (0, 0, 0), size=(300, 40))
        assert load_dataset(f"folder:{tmp_path}").image_size == (10, 12)
        assert load_dataset(f"folder:{tmp_path}", image_size=(6, 7)).image_size == (6, 7)
        for name in ("a", "b"):
            for i in range(3):
                draw(tmp_path / "photos" / name / f"{i}.jpg", (i, 0, 0), size=(300, 200))
        assert load_dataset(f"folder:{tmp_path / 'photos'}").image_size == (200, 224)

    def test_other_files_are_passed_over(self, tmp_path: Path) -> None:
        root = self.fill(tmp_path)
        (root / "ant" / "notes.txt").write_text("no image")
        (root / "ant" / "._00.png").write_text("no image")
        (root / ".cache").mkdir()
        dataset = load_dataset(f"folder:{root}")
        assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == 40

    @pytest.mark.parametrize("content", [b"", b"no image at all", None], ids=["empty", "text", "truncated"])
    def test_unreadable_images_are_named(self, content: bytes | None, tmp_path: Path) -> None:
        bad = self.fill(tmp_path) / "ant" / "05.png"
        if content is None:
            Image.effect_noise((64, 64), 50).save(bad)
        bad.write_bytes(bad.read_bytes()[:1500] if content is None else content)
        with pytest.raises(AdvdpnpError) as error:
            load_dataset(f"folder:{tmp_path}")
        assert f"{bad}: these files cannot be read" in sentence(error)

    def test_many_unreadable_images_are_counted(self, tmp_path: Path) -> None:
        for file in (self.fill(tmp_path) / "ant").iterdir():
            file.write_bytes(b"")
        with pytest.raises(AdvdpnpError) as error:
            load_dataset(f"folder:{tmp_path}")
        assert "and 17 more" in sentence(error)

    def test_deep_images_are_refused_rather_than_clipped(self, tmp_path: Path) -> None:
        root = self.fill(tmp_path)
        Image.fromarray(np.full((10, 12), 40_000, np.uint16)).save(root / "ant" / "deep.png")
        with pytest.raises(AdvdpnpError) as error:
            load_dataset(f"folder:{root}")
        assert "deep.png" in sentence(error)

    def test_what_is_wrong_with_the_folders_is_said(self, tmp_path: Path) -> None:
        cases: dict[str, Callable[[Path], Any]] = {
            "there is no folder": lambda root: None,
            "at least 2": lambda root: draw(root / "a" / "0.png", (0, 0, 0)),
            "no image in": lambda root: (draw(root / "a" / "0.png", (0, 0, 0)), (root / "b").mkdir()),
            "but no test": lambda root: (self.fill(root / "train"), self.fill(root / "val")),
            "test has the class 'c'": lambda root: (
                self.fill(root / "train"),
                self.fill(root / "test"),
                draw(root / "test" / "c" / "0.png", (0, 0, 0)),
            ),
            "no image in {root}/test": lambda root: (
                self.fill(root / "train"),
                (root / "test" / "ant").mkdir(parents=True),
                (root / "test" / "bee").mkdir(),
            ),
        }
        for number, (words, make) in enumerate(cases.items()):
            root = tmp_path / str(number)
            make(root)
            with pytest.raises(AdvdpnpError) as error:
                load_dataset(f"folder:{root}")
            assert words.format(root=root) in sentence(error)


@pytest.mark.parametrize("names", [("x_train", "y_train"), ("image", "label")])
def test_images_to_train_on_only_need_no_test_images(names, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "generated.npz", **{names[0]: images, names[1]: np.arange(20) % 4})
    spec = f"npz:{tmp_path / 'generated.npz'}"
    made = load_dataset(spec, validation=0, test=False)
    assert (len(made.train), len(made.validation), len(made.test), made.classes) == (20, 0, 0, 4)
    assert made.image_size == (8, 8)
    with pytest.raises(AdvdpnpError, match="no array 'x_test'"):
        load_dataset(spec, validation=0)


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("root", "did you mean data_root"),
        ("transform", "a layer of the model"),
        ("split", "has .train, .validation"),
    ],
)
def test_options_of_torchvision_are_answered_in_one_sentence(option, hint):
    with pytest.raises(AdvdpnpError, match=f"load_dataset has no option '{option}'; .*{hint}"):
        load_dataset("digits", **{option: "x"})
