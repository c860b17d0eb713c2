"""What a data set is: whole tensors, class names, and a split that never changes by itself.

Two seeds are kept apart. Which images are the *test* images is fixed for good, for a net trained under one seed is
attacked under another. Which training images are held out for *validation* depends on the seed of the request.
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

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import Draw, seed_of
from advdpnp.base.registry import Registry

DATA_ROOT_VARIABLE = "ADVDPNP_DATA"
LARGEST_VALIDATION_SHARE = 5  # a request for more than a fifth of the training images is cut down to that

DATASETS = Registry("data set", "advdpnp.datasets")


@dataclass(frozen=True)
class Split:
    """Images and their labels, whole, on one device.

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
        """SHA-256 in hex over shapes and bytes of images and labels; the same on every device."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "Split":
        """The same split on ``device``."""
        return Split(self.images.to(device), self.labels.to(device))

    def head(self, n: int | None) -> "Split":
        """The first n images (all of them if there are fewer, or if n is None)."""
        return self if n is None or n >= len(self) else Split(self.images[:n], self.labels[:n])

    def some_images(self, samples: np.ndarray) -> Tensor:
        """The images with these indices (int64 (n,)), in this order, on the CPU."""
        return self.images[torch.tensor(samples, device=self.images.device)].cpu()

    def some_labels(self, samples: np.ndarray) -> Tensor:
        """Their labels, int64 (n,), on the CPU."""
        return self.labels[torch.tensor(samples, device=self.labels.device)].cpu()

    def pick(self, index: Tensor) -> "Split":
        """The images with these indices (int64), in this order."""
        return Split(self.images[index], self.labels[index])


def to_float(images: Tensor) -> Tensor:
    """uint8 images (any shape) as float32 in [0, 1]: what every model takes."""
    return images.float() / 255


@dataclass(frozen=True)
class Dataset:
    """A classification task: three splits and what is known about them.

    Attributes:
        name: the spec that loads it again ("cifar10", "npz:PATH").
        class_names: one name per class; labels index it.
        train: training images without the validation images; empty if they were not asked for.
        validation: held out of the training images; empty if they were not asked for.
        test: test images, in an order whose every beginning mixes the classes.
        augmentation: what training does to images unless told otherwise, a key of ``augment.AUGMENTATIONS``.
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
        """Standard deviation of each channel, in [0, 1]; at least 1/255, so that dividing by it is always safe."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if not len(self.train):
            raise AdvdpnpError(f"{self.name} has no mean without its training images; load it with train=True")
        means, stds = [], []
        levels = torch.arange(256, dtype=torch.float64) / 255
        for channel in range(self.channels):
            # Counting the 256 levels first makes float64 sums exact to the last digits, whatever the order of images.
            counts = torch.bincount(self.train.images[:, channel].flatten().cpu(), minlength=256).double()
            share = counts / counts.sum()
            mean = (share * levels).sum()
            means.append(float(mean))
            stds.append(max(float((share * (levels - mean) ** 2).sum().sqrt()), 1 / 255))
        return tuple(means), tuple(stds)


@dataclass(frozen=True)
class Request:
    """What the caller of ``load_dataset`` wants; every builder in the registry is called with one.

    Attributes:
        spec: the name as the caller wrote it.
        data_root: folder that holds the data sets.
        download: fetch what is missing.
        train: load the training images too.
        validation: how many of them to hold out, at most.
        seed: which of them.
        image_size: height and width that images of different sizes are brought to; None leaves it to the data set.
        test: whether test images are wanted; files that hold none will do otherwise.
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
        """For data sets whose images have one size."""
        if self.image_size is not None:
            raise AdvdpnpError(
                f"the images of {self.spec} have a fixed size; choose an image size for flowers102 and folder: only"
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
        """Hold out the validation images and put the data set together.

        Args:
            train: all training images, None if they were not asked for.
            largest_validation: hold out no more than this, whatever was asked for.
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
    """Labels that cannot be learned are nearly always slips in making the data.

    Raises:
        AdvdpnpError: one class only, no class 0, or test images of classes without training images.
    """
    known = torch.unique(train).tolist()
    if len(known) < 2:
        raise AdvdpnpError(f"the training images of {spec} are all of one class; a classifier needs at least 2")
    if known[0] != 0:
        raise AdvdpnpError(f"the labels of {spec} begin at {known[0]}; number the classes from 0")
    unknown = sorted(set(torch.unique(test).tolist()) - set(known))
    if unknown:
        listed = ", ".join(map(str, unknown[:5]))
        raise AdvdpnpError(f"{spec} has test images of the classes {listed} but no training images of them; add some")


def default_data_root() -> Path:
    """The folder named by ADVDPNP_DATA, or ./data."""
    return Path(os.environ.get(DATA_ROOT_VARIABLE) or "data").expanduser()


def load_dataset(
    spec: str,
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
        spec: a name of the registry: "cifar10", "npz:PATH", "folder:PATH"...
        data_root: folder that holds the data sets; None takes ADVDPNP_DATA, else ./data.
        download: fetch what is missing.
        train: load the training images; without them the train and validation splits are empty.
        validation: training images to hold out, stratified by class; at most a fifth of the training images.
        seed: which training images are held out. The test images never depend on it.
        image_size: pixels (one number for a square, or height and width) for sets whose images differ in size.
        test: False for images to train on only: a file then needs to hold no test images.

    Raises:
        AdvdpnpError: no such data set, missing or damaged data, a failed download.
    """
    import advdpnp.datasets  # noqa: F401  (its modules register themselves)

    if validation < 0:
        raise AdvdpnpError(f"{validation} images cannot be held out for validation; give 0 or more")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and min(size) < 1:
        raise AdvdpnpError(f"an image size of {size[0]}x{size[1]} leaves no pixel; give 1 or more")
    root = Path(data_root).expanduser() if data_root is not None else default_data_root()
    made: Dataset = DATASETS.make(spec, request=Request(spec, root, download, train, validation, seed, size, test))
    return made


def safe_label(spec: str) -> str:
    """A short name without characters that mean something in a path: "npz:/a/my file.npz" -> "npz-my-file"."""
    kind, colon, path = spec.partition(":")
    stem = Path(path.rstrip("/\\")).expanduser().resolve() if colon else Path(kind)
    text = f"{kind}-{stem.stem if kind == 'npz' else stem.name}" if colon else kind
    return re.sub(r"[^\w.]+", "-", text, flags=re.ASCII).strip("-.") or "data"


def shuffled(n: int, key: int) -> Tensor:
    """A permutation of 0..n-1 (int64) that depends on the key alone: not on torch's version, device or generators."""
    return torch.argsort(Draw.of(key, torch.arange(n)).bits(()), stable=True)


def stratified(labels: Tensor, count: int, key: int) -> tuple[Tensor, Tensor]:
    """Pick ``count`` samples so that each class gives its share, to within one image.

    Shares are rounded by the largest remainder; a class keeps at least one image unless it has to give all.

    Args:
        labels: int64, shape (n,).
        count: how many to pick, 0 to n.
        key: seed of the choice.

    Returns:
        indices of the picked samples in mixed order, and of the others in their own order; int64.
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
