"""The data set class, the registry of data sets, and reproducible splits.

The *test* split never depends on a seed, because a model trained with one seed may be evaluated with another. The
*validation* split, which is held out of the training images, depends on the seed of the request.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advdpnp.base.errors import AdvdpnpError, with_known_options
from advdpnp.base.randomness import Draw, seed_of
from advdpnp.base.registry import Registry
from advdpnp.base.untrusted.text import LONGEST_NAME, printable

DATA_ROOT_VARIABLE = "ADVDPNP_DATA"
LARGEST_VALIDATION_SHARE = 5  # the validation split is at most a fifth of the training images

DATASETS = Registry("data set", "advdpnp.datasets")


@dataclass(frozen=True)
class Split:
    """Images and their labels, on one device.

    Attributes:
        images: uint8, shape (n, c, h, w).
        labels: int64, shape (n,).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hexadecimal) over shapes and bytes of images and labels; the same on every device."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "Split":
        """The same split on ``device``."""
        return Split(self.images.to(device), self.labels.to(device))

    def head(self, n: int | None) -> "Split":
        """The first n images, or all of them if there are fewer or n is None."""
        return self if n is None or n >= len(self) else Split(self.images[:n], self.labels[:n])

    def some_images(self, samples: np.ndarray) -> Tensor:
        """The images with these indices (int64 (n,)), in this order, on the CPU."""
        return self.images[torch.tensor(samples, device=self.images.device)].cpu()

    def some_labels(self, samples: np.ndarray) -> Tensor:
        """The labels with these indices (int64 (n,)), int64 (n,), on the CPU."""
        return self.labels[torch.tensor(samples, device=self.labels.device)].cpu()

    def pick(self, index: Tensor) -> "Split":
        """The images and labels with these indices (int64), in this order."""
        return Split(self.images[index], self.labels[index])


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 images of any shape to float32 in [0, 1], the input of every model."""
    return images.float() / 255


@dataclass(frozen=True)
class Dataset:
    """A classification task with three splits.

    Attributes:
        name: the spec that loads it ("cifar10", "npz:PATH").
        class_names: one name per class, indexed by label.
        train: training images without the validation images; empty if not requested.
        validation: images held out of the training images; empty if not requested.
        test: test images, ordered so that the first n contain all classes in a mix.
        augmentation: default augmentation of training, a key of ``augment.AUGMENTATIONS``.
        label: short name that is safe in file names ("cifar10", "npz-myfile").
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    augmentation: str = "crop"
    label: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or safe_label(self.name))
        names = tuple(printable(str(name), LONGEST_NAME) for name in self.class_names)
        object.__setattr__(self, "class_names", names)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """Channels of an image: 1 (gray) or 3 (RGB)."""
        return self.test.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of every image."""
        return self.test.images.shape[2], self.test.images.shape[3]

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel of the training images, in [0, 1]."""
        return self._moments[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel of the training images, in [0, 1]; at least 1/255 to divide by safely."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if not len(self.train):
            raise AdvdpnpError(f"{self.name} has no mean without its training images; load it with train=True")
        means, stds = [], []
        levels = torch.arange(256, dtype=torch.float64) / 255
        for channel in range(self.channels):
            # Counting the 256 levels first makes the sums independent of the order of the images.
            counts = torch.bincount(self.train.images[:, channel].flatten().cpu(), minlength=256).double()
            share = counts / counts.sum()
            mean = (share * levels).sum()
            means.append(float(mean))
            stds.append(max(float((share * (levels - mean) ** 2).sum().sqrt()), 1 / 255))
        return tuple(means), tuple(stds)


@dataclass(frozen=True)
class Request:
    """The arguments of ``load_dataset``, which every builder in the registry receives.

    Attributes:
        spec: the name as the caller wrote it.
        data_root: folder of the data sets.
        download: download missing data.
        train: load the training images too.
        validation: number of training images to hold out, at most.
        seed: determines which training images are held out.
        image_size: height and width to resize images to, if their sizes differ; None for the data set's default.
        test: load test images; if False, a file without test images is accepted.
    """

    spec: str
    data_root: Path = field(default_factory=lambda: default_data_root())
    download: bool = False
    train: bool = True
    validation: int = 1000
    seed: int = 0
    image_size: tuple[int, int] | None = None
    test: bool = True

    def refuse_image_size(self) -> None:
        """Reject an image size, for data sets whose images have a fixed size.

        Raises:
            AdvdpnpError: an image size was requested.
        """
        if self.image_size is not None:
            raise AdvdpnpError(
                f"the images of {self.spec} have a fixed size; give an image size only for flowers102 and folder:"
            )

    def assemble(
        self,
        train: Split | None,
        test: Split,
        class_names: Sequence[str],
        *,
        augmentation: str,
        largest_validation: int | None = None,
    ) -> Dataset:
        """Hold out the validation images and build the data set.

        Args:
            train: all training images; None if they were not requested.
            largest_validation: upper limit of the number of validation images.

        Raises:
            AdvdpnpError: the labels cannot be learned (see ``_check_labels``).
        """
        if train is None:
            train = validation = test.head(0)
        else:
            _check_labels(self.spec, train.labels, test.labels)
            count = min(self.validation, len(train) // LARGEST_VALIDATION_SHARE)
            if largest_validation is not None:
                count = min(count, largest_validation)
            held_out, kept = stratified(train.labels, count, seed_of("validation", self.seed))
            train, validation = train.pick(kept), train.pick(held_out)
        return Dataset(self.spec, tuple(class_names), train, validation, test, augmentation)


def _check_labels(spec: str, train: Tensor, test: Tensor) -> None:
    """Reject labels that cannot be learned; they nearly always result from mistakes in preparing the data.

    Raises:
        AdvdpnpError: there is only one class, or no class 0, or a class with test images but no training images.
    """
    known = torch.unique(train).tolist()
    if len(known) < 2:
        raise AdvdpnpError(f"the training images of {spec} are all of one class; a classifier needs at least 2")
    if known[0] != 0:
        raise AdvdpnpError(f"the labels of {spec} start at {known[0]}; number the classes from 0")
    unknown = sorted(set(torch.unique(test).tolist()) - set(known))
    if unknown:
        listed = ", ".join(map(str, unknown[:5]))
        raise AdvdpnpError(f"{spec} has test images of the classes {listed} but no training images of them; add some")


def default_data_root() -> Path:
    """The folder in the environment variable ADVDPNP_DATA, or ./data."""
    return Path(os.environ.get(DATA_ROOT_VARIABLE) or "data").expanduser()


_ELSEWHERE = {
    "transform": "images stay in [0, 1]; normalisation is a layer of the model, and resizing is image_size=",
    "split": "the data set has .train, .validation and .test",
}  # options of torchvision


@with_known_options(_ELSEWHERE)
def load_dataset(
    spec: str | Path,
    *,
    data_root: Path | str | None = None,
    download: bool = False,
    train: bool = True,
    validation: int = 1000,
    seed: int = 0,
    image_size: int | tuple[int, int] | None = None,
    test: bool = True,
) -> Dataset:
    """Load a data set by name.

    Args:
        spec: a name in the registry: "cifar10", "npz:PATH", "folder:PATH"...
        data_root: folder of the data sets; None for ADVDPNP_DATA, or ./data if it is not set.
        download: download missing data.
        train: load the training images; without them the train and validation splits are empty.
        validation: number of training images to hold out, stratified by class; at most a fifth of them.
        seed: determines which training images are held out; the test images do not depend on it.
        image_size: size in pixels (a side length, or height and width) for data sets whose images differ in size.
        test: False accepts a file without test images.

    Raises:
        AdvdpnpError: no such data set, missing or damaged data, a failed download.
    """
    import advdpnp.datasets  # noqa: F401  (its modules register themselves)

    spec = str(spec)
    if validation < 0:
        raise AdvdpnpError(f"cannot hold out {validation} images for validation; give 0 or more")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and min(size) < 1:
        raise AdvdpnpError(f"an image size of {size[0]}x{size[1]} has no pixels; give 1 or more")
    root = Path(data_root).expanduser() if data_root is not None else default_data_root()
    made: Dataset = DATASETS.make(spec, request=Request(spec, root, download, train, validation, seed, size, test))
    return made


def safe_label(spec: str) -> str:
    """A short name without characters that are special in paths: "npz:/a/my file.npz" -> "npz-my-file"."""
    kind, colon, path = spec.partition(":")
    stem = Path(path.rstrip("/\\")).expanduser().resolve() if colon else Path(kind)
    text = f"{kind}-{stem.stem if kind == 'npz' else stem.name}" if colon else kind
    return re.sub(r"[^\w.]+", "-", text, flags=re.ASCII)[:100].strip("-.") or "data"


def shuffled(n: int, key: int) -> Tensor:
    """A permutation of 0..n-1 (int64) that depends only on the key, not on torch's version, device or generators."""
    return torch.argsort(Draw.of(key, torch.arange(n)).bits(()), stable=True)


def stratified(labels: Tensor, count: int, key: int) -> tuple[Tensor, Tensor]:
    """Pick ``count`` samples, stratified by class to within one image.

    Quotas are rounded by the largest-remainder method. At least one image of each class is not picked, if possible.

    Args:
        labels: int64, shape (n,).
        count: number of samples to pick, 0 to n.
        key: seed of the selection.

    Returns:
        Indices of the picked samples in random order, and of the other samples in ascending order; int64.
    """
    sizes = torch.bincount(labels) if len(labels) else torch.zeros(0, dtype=torch.int64)
    share = sizes.double() * count / max(len(labels), 1)
    quota = share.floor().long()
    remainder = torch.where(quota + 1 < sizes, share - quota, share - quota - 1)
    extra = torch.argsort(remainder, descending=True, stable=True)[: count - int(quota.sum())]
    quota[extra] += 1

    order = shuffled(len(labels), key)
    picked = torch.zeros(len(labels), dtype=torch.bool)
    for label, wanted in enumerate(quota.tolist()):
        picked[order[labels[order] == label][:wanted]] = True
    return order[picked[order]], torch.nonzero(~picked).flatten()
