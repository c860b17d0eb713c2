"""Standard data sets that torchvision can read and download."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import seed_of
from advdpnp.datasets.base import DATA_ROOT_VARIABLE, DATASETS, Dataset, Request, Split, shuffled

DOWNLOAD = "--download (train, eval, detect and corrupt have it)"
FLOWERS_SIZE = (224, 224)
DIGIT_NAMES = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True)
class Source:
    """How torchvision stores one data set.

    Attributes:
        spec: its name in the registry.
        title: its name in messages.
        reader: name of its class in torchvision.datasets.
        files: its files or folders in the data root.
    """

    spec: str
    title: str
    reader: str
    files: tuple[str, ...]

    def present(self, root: Path) -> bool:
        """Whether any of its files is in ``root``."""
        return any((root / file).exists() for file in self.files)

    def read(self, request: Request, arguments: Mapping[str, Any]) -> Any:
        """torchvision's object for one split of the data set.

        Args:
            arguments: arguments of torchvision's class that select the split.

        Raises:
            AdvdpnpError: the data set is missing or damaged, or its download failed.
        """
        root = request.data_root
        reader = getattr(_torchvision_datasets(), self.reader)
        holds = " and ".join(self.files)
        try:
            # torchvision reports its mirrors on stdout, which is reserved for results.
            with contextlib.redirect_stdout(sys.stderr):
                return reader(root=str(root), download=request.download, **arguments)
        except MemoryError:
            raise
        except PermissionError as error:
            raise AdvdpnpError(f"no permission for {error.filename}; check who owns it, or set --data-root") from error
        except ImportError as error:
            raise AdvdpnpError(f"{self.title} cannot be read: {error}; install what is missing") from error
        except Exception as error:  # torchvision raises RuntimeError, ValueError, AssertionError, EOFError, ...
            why = " ".join(str(error).split()) or type(error).__name__
            if request.download:
                raise AdvdpnpError(
                    f"{self.title} could not be downloaded to {root} ({why}); check the network and the folder, "
                    f"or copy {holds} into it from another machine"
                ) from error
            if self.present(root):
                raise AdvdpnpError(
                    f"{self.title} in {root} is damaged or incomplete; delete {holds} there "
                    f"and download it again with {DOWNLOAD}"
                ) from error
            raise AdvdpnpError(
                f"{self.title} is not in {root}; add {DOWNLOAD}, or set --data-root / "
                f"{DATA_ROOT_VARIABLE} to the folder that contains {holds}"
            ) from error


CIFAR10 = Source("cifar10", "CIFAR-10", "CIFAR10", ("cifar-10-batches-py",))
CIFAR100 = Source("cifar100", "CIFAR-100", "CIFAR100", ("cifar-100-python",))
SVHN = Source("svhn", "SVHN", "SVHN", ("train_32x32.mat", "test_32x32.mat"))
MNIST = Source("mnist", "MNIST", "MNIST", ("MNIST/raw",))
FASHION_MNIST = Source("fashion-mnist", "Fashion-MNIST", "FashionMNIST", ("FashionMNIST/raw",))
FLOWERS102 = Source("flowers102", "Flowers-102", "Flowers102", ("flowers-102",))
SOURCES = (CIFAR10, CIFAR100, SVHN, MNIST, FASHION_MNIST, FLOWERS102)


def _torchvision_datasets() -> ModuleType:
    try:
        import torchvision.datasets
    except Exception as error:  # a torchvision that was built for another torch raises RuntimeError
        why = " ".join(str(error).split())
        raise AdvdpnpError(f"torchvision does not import with this torch ({why}); see: advdpnp doctor") from error
    module: ModuleType = torchvision.datasets
    return module


def _to_split(images: np.ndarray | torch.Tensor, labels: Iterable[int] | np.ndarray | torch.Tensor) -> Split:
    pixels = torch.as_tensor(images)
    return Split(pixels.contiguous(), torch.as_tensor(labels, dtype=torch.int64))


def _load(
    source: Source,
    request: Request,
    to_split: Callable[[Any], Split],
    augmentation: str,
    arguments: Callable[[bool], dict[str, Any]] = lambda train: {"train": train},
    class_names: Callable[[Any], Iterable[str]] = lambda part: part.classes,
) -> Dataset:
    request.refuse_image_size()
    test = source.read(request, arguments(False))
    train = to_split(source.read(request, arguments(True))) if request.train else None
    return request.assemble(train, to_split(test), [str(n) for n in class_names(test)], augmentation=augmentation)


def _cifar_split(part: Any) -> Split:
    return _to_split(torch.as_tensor(part.data).permute(0, 3, 1, 2), part.targets)


def _mnist_split(part: Any) -> Split:
    return _to_split(part.data.unsqueeze(1), part.targets)


@DATASETS.register(
    "cifar10",
    description="50,000 + 10,000 photographs of 10 classes, 32x32 RGB",
    reference="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
)
def cifar10(request: Request) -> Dataset:
    """CIFAR-10, with test images in the order of the file."""
    return _load(CIFAR10, request, _cifar_split, "crop-flip")


@DATASETS.register(
    "cifar100",
    description="50,000 + 10,000 photographs of 100 classes, 32x32 RGB",
    reference="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
)
def cifar100(request: Request) -> Dataset:
    """CIFAR-100 with its 100 fine labels, and test images in the order of the file."""
    return _load(CIFAR100, request, _cifar_split, "crop-flip")


@DATASETS.register(
    "svhn",
    description="73,257 + 26,032 house-number digits from photographs, 32x32 RGB, 10 classes",
    reference="Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, 2011",
)
def svhn(request: Request) -> Dataset:
    """SVHN without its extra split, with test images in the order of the file."""
    return _load(
        SVHN,
        request,
        lambda part: _to_split(part.data, part.labels),
        "crop",
        arguments=lambda train: {"split": "train" if train else "test"},
        class_names=lambda part: DIGIT_NAMES,
    )


@DATASETS.register(
    "mnist",
    description="60,000 + 10,000 handwritten digits, 28x28 gray",
    reference="LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998",
)
def mnist(request: Request) -> Dataset:
    """MNIST, with test images in the order of the file."""
    return _load(MNIST, request, _mnist_split, "crop", class_names=lambda part: DIGIT_NAMES)


@DATASETS.register(
    "fashion-mnist",
    description="60,000 + 10,000 pieces of clothing, 28x28 gray, 10 classes",
    reference="Xiao et al., Fashion-MNIST: a Novel Image Dataset for Benchmarking, 2017",
)
def fashion_mnist(request: Request) -> Dataset:
    """Fashion-MNIST, with test images in the order of the file."""
    return _load(FASHION_MNIST, request, _mnist_split, "crop-flip")


@DATASETS.register(
    "flowers102",
    description="2,040 + 6,149 photographs of 102 kinds of flowers, RGB, resized to 224x224",
    reference="Nilsback and Zisserman, Automated Flower Classification over a Large Number of Classes, 2008",
)
def flowers102(request: Request) -> Dataset:
    """Flowers-102; its training and validation splits together are the training images. Test images are shuffled once.

    Images are resized to cover the image size (default 224x224), then cropped at the centre.
    """
    height, width = request.image_size or FLOWERS_SIZE

    def fit(image: Image.Image) -> np.ndarray:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.BILINEAR))

    def split(*parts: str) -> Split:
        rows: list[tuple[np.ndarray, int]] = []
        for part in parts:
            images = FLOWERS102.read(request, {"split": part, "transform": fit})
            try:
                rows += list(images)
            except OSError as error:
                raise AdvdpnpError(
                    f"Flowers-102 in {request.data_root} is damaged ({error}); delete flowers-102 there and download "
                    f"it again with {DOWNLOAD}"
                ) from error
        pixels = torch.as_tensor(np.stack([image for image, _ in rows])).permute(0, 3, 1, 2)
        return _to_split(pixels, [label for _, label in rows])

    test = split("test")
    test = test.pick(shuffled(len(test), seed_of("flowers102", "test")))
    names = [f"flower {number}" for number in range(1, 103)]
    return request.assemble(split("train", "val") if request.train else None, test, names, augmentation="crop-flip")
