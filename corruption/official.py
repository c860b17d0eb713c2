"""Reads the official files of CIFAR-10-C and CIFAR-100-C by memory map.

Layout (Zenodo records 2535967 and 3555552): one folder with a file ``<type>.npy`` per type, uint8 (50000, 32, 32, 3),
which contains the 10,000 test images at severity 1, then at severity 2, and so on; and ``labels.npy`` with the 10,000
labels repeated five times.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.untrusted.files import UNREADABLE_ARRAY, check_file, describe_fault
from advdpnp.corruption.registry import SEVERITIES, find_corruption
from advdpnp.corruption.types import BENCHMARK

MARKER = "regenerated.json"
"""Marks folders of this layout that this package wrote, so that they are not mistaken for the official files."""

_LARGEST = 2**36  # bytes of a file
_MOST_IMAGES = 10_000_000  # of all severities

_FINGERPRINT_STRIDE = 97
"""The fingerprint uses one image in this many, because reading all 2.3 GB would take longer than some evaluations."""


@dataclass(frozen=True)
class Release:
    """A published set of corrupted test images: its folder and its Zenodo record."""

    folder: str
    record: int

    @property
    def where(self) -> str:
        """The download address, for messages."""
        return f"https://zenodo.org/records/{self.record} (unpack {self.folder}.tar)"


RELEASES = {"cifar10": Release("CIFAR-10-C", 2535967), "cifar100": Release("CIFAR-100-C", 3555552)}
"""The releases by name of the data set."""


@dataclass(frozen=True)
class OfficialCorruptions:
    """The folder of one release.

    Attributes:
        folder: contains the .npy files.
        release: the release that the folder should contain.
        label: the name in tables ("cifar10-c").
    """

    folder: Path
    release: Release
    label: str
    _open: dict[str, NDArray[np.uint8]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def labels(self) -> Tensor:
        """The labels of one severity, int64 (n,), checked to be the same at every severity.

        Raises:
            AdvdpnpError: labels.npy is missing, damaged, or not the same list five times.
        """
        stored = self._load("labels")
        path = self.folder / "labels.npy"
        fits = stored.ndim == 1 and 0 < len(stored) <= _MOST_IMAGES and len(stored) % len(SEVERITIES) == 0
        if not fits or stored.dtype.kind not in "iu":
            raise AdvdpnpError(
                f"{path} should contain one whole number for each image at five severities, not {_describe(stored)}; "
                f"get it again from {self.release.where}"
            )
        rows = np.asarray(stored, dtype=np.int64).reshape(len(SEVERITIES), -1)
        if (rows < 0).any():
            raise AdvdpnpError(f"{path} has a label below 0; get it again from {self.release.where}")
        if (rows != rows[0]).any():
            raise AdvdpnpError(
                f"{path} differs between severities, so it is not in the published order; "
                f"get it again from {self.release.where}"
            )
        return torch.from_numpy(rows[0].copy())

    def missing(self, names: Sequence[str] = BENCHMARK) -> list[str]:
        """The missing files of these types and labels.npy."""
        return [f"{name}.npy" for name in (*names, "labels") if not (self.folder / f"{name}.npy").is_file()]

    def require(self, names: Sequence[str] = BENCHMARK) -> None:
        """Check, before a long run starts, that all files of these types exist and have the right type and shape.

        Raises:
            AdvdpnpError: a file is missing or damaged; the message says where to get it.
        """
        if missing := self.missing(names):
            shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
            raise AdvdpnpError(f"{self.folder} lacks {shown}; get them from {self.release.where}")
        for name in names:
            self._array(name)

    def images(self, name: str, severity: int, sample: Tensor | None = None) -> Tensor:
        """The images of one cell, or those with these indices (int64): uint8, shape (n, c, h, w).

        Raises:
            AdvdpnpError: unknown name, severity out of range, or a file that is missing or damaged.
        """
        find_corruption(name).constants_at(severity)
        count = len(self.labels)
        cell = self._array(name)[(severity - 1) * count : severity * count]
        chosen = cell if sample is None else cell[sample.cpu().numpy()]
        return torch.from_numpy(np.ascontiguousarray(chosen.transpose(0, 3, 1, 2)).copy())

    def fingerprint(self, name: str, severity: int) -> str:
        """SHA-256 (hexadecimal) of a subset of the cell's images, which identifies the version of a file."""
        subset = torch.arange(0, len(self.labels), _FINGERPRINT_STRIDE)
        return hashlib.sha256(self.images(name, severity, subset).numpy().tobytes()).hexdigest()

    def _array(self, name: str) -> NDArray[np.uint8]:
        if name not in self._open:
            array, path = self._load(name), self.folder / f"{name}.npy"
            if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] not in (1, 3) or not array.size:
                raise AdvdpnpError(
                    f"{path} must hold uint8 images (n, height, width, channels), not {_describe(array)}; "
                    f"get it again from {self.release.where}"
                )
            if len(array) != len(SEVERITIES) * len(self.labels):
                raise AdvdpnpError(
                    f"{path} has {len(array)} images but {self.folder / 'labels.npy'} "
                    f"{len(SEVERITIES) * len(self.labels)} labels; get both again from {self.release.where}"
                )
            self._open[name] = array
        return self._open[name]

    def _load(self, name: str) -> NDArray[np.uint8]:
        path = self.folder / f"{name}.npy"
        try:
            check_file(path, _LARGEST)
            array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise AdvdpnpError(f"there is no {path}; get it from {self.release.where}") from None
        except (*UNREADABLE_ARRAY, TypeError, OSError, OverflowError, MemoryError) as error:
            raise AdvdpnpError(
                f"{path} is damaged or its download is incomplete ({describe_fault(error)}); get it again from "
                f"{self.release.where}"
            ) from error
        if not isinstance(array, np.ndarray):
            raise AdvdpnpError(f"{path} is an archive, not a .npy file; get it again from {self.release.where}")
        return array


def find_official(dataset_name: str, data_root: Path) -> OfficialCorruptions | None:
    """The official corruptions of a data set ("cifar10", "cifar100") in ``data_root``, or None.

    None means that the data set has no release, that there is no folder, or that this package wrote the folder. An
    incomplete folder is returned; `OfficialCorruptions.require` reports the missing files.
    """
    release = RELEASES.get(dataset_name)
    if release is None:
        return None
    folder = data_root / release.folder
    if not folder.is_dir():  # unpacked under another spelling, such as cifar-10-c
        spelt = [each for each in data_root.glob("*") if each.name.lower() == release.folder.lower() and each.is_dir()]
        folder = min(spelt, default=folder)
    if not folder.is_dir() or (folder / MARKER).exists():
        return None
    return OfficialCorruptions(folder, release, f"{dataset_name}-c")


def _describe(array: NDArray[np.uint8]) -> str:
    return f"{array.dtype} of shape {array.shape}"
