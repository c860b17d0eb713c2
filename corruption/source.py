"""The source of an evaluation's corrupted images: the official files, or regenerated corruptions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from advdpnp.base.errors import AdvdpnpError
from advdpnp.corruption.apply import check_images, corrupt
from advdpnp.corruption.official import RELEASES, OfficialCorruptions, find_official
from advdpnp.corruption.registry import SEVERITIES, choose_types, find_corruption
from advdpnp.corruption.types import BENCHMARK, EXTRA
from advdpnp.datasets.base import Dataset, Split, default_data_root

VERSION = 1
"""Version of the operations: increased when any of them changes its images, so that old verdicts are not reused."""

Cell = tuple[str, int]


class CorruptionSource(Protocol):
    """Corrupted versions of a data set's test images.

    Attributes:
        label: the name in tables: "cifar10-c", or "cifar10-c (regenerated)".
        cells: (type, severity) in the benchmark's order.
    """

    @property
    def label(self) -> str: ...

    @property
    def cells(self) -> list[Cell]: ...

    def images(self, name: str, severity: int, sample: Tensor) -> Tensor:
        """The test images with these indices (int64 (n,)), corrupted: uint8 (n, c, h, w), on the data's device."""

    def definition(self, name: str, severity: int) -> dict[str, Any]:
        """Everything that determines the images of a cell, except the clean images; JSON values."""


@dataclass(frozen=True)
class Regenerated:
    """Corruptions computed from the clean test images."""

    dataset: Dataset
    cells: list[Cell]
    seed: int

    @property
    def label(self) -> str:
        return f"{self.dataset.label}-c (regenerated)"

    def images(self, name: str, severity: int, sample: Tensor) -> Tensor:
        clean = self.dataset.test.images
        return corrupt(clean[sample.to(clean.device)], name, severity, seed=self.seed, sample=sample)

    def definition(self, name: str, severity: int) -> dict[str, Any]:
        return {
            "source": self.label,
            "corruption": name,
            "severity": severity,
            "constants": list(find_corruption(name).constants_at(severity)),
            "seed": self.seed,
            "version": VERSION,
        }


@dataclass(frozen=True)
class Official:
    """Corruptions read from the official files."""

    dataset: Dataset
    cells: list[Cell]
    files: OfficialCorruptions

    @property
    def label(self) -> str:
        return self.files.label

    def images(self, name: str, severity: int, sample: Tensor) -> Tensor:
        return self.files.images(name, severity, sample).to(self.dataset.test.images.device)

    def definition(self, name: str, severity: int) -> dict[str, Any]:
        return {
            "source": self.label,
            "corruption": name,
            "severity": severity,
            "fingerprint": self.files.fingerprint(name, severity),
        }


def _cells(names: tuple[str, ...]) -> list[Cell]:
    return [(name, severity) for name in names for severity in SEVERITIES]


def _regenerated(dataset: Dataset, names: tuple[str, ...], data_root: Path, seed: int) -> CorruptionSource:
    first = dataset.test.images[:1]
    check_images(first)
    for name in set(names) - set(BENCHMARK + EXTRA):
        for severity in SEVERITIES:
            corrupt(first, name, severity)  # a plug-in that fails should fail now, not after hours
    return Regenerated(dataset, _cells(names), seed)


def _official(dataset: Dataset, names: tuple[str, ...], data_root: Path, seed: int) -> CorruptionSource:
    release = RELEASES.get(dataset.name)
    if release is None:
        raise AdvdpnpError(
            f"there are no official corruptions of {dataset.name}, only of {' and '.join(RELEASES)}; "
            "use --corruptions auto"
        )
    files = find_official(dataset.name, data_root)
    if files is None:
        raise AdvdpnpError(
            f"there is no folder {data_root / release.folder} with the official files; get them from {release.where}, "
            "or use --corruptions auto"
        )
    files.require(names)
    labels, count = dataset.test.labels.cpu(), len(dataset.test.labels)
    if not torch.equal(files.labels[:count], labels):
        raise AdvdpnpError(
            f"{files.folder / 'labels.npy'} does not agree with the labels of {dataset.name}'s test images; "
            f"get it again from {release.where}"
        )
    clean = tuple(dataset.test.images.shape[1:])
    for name in names:
        if (shape := tuple(files.images(name, SEVERITIES[0], torch.arange(1)).shape[1:])) != clean:
            raise AdvdpnpError(
                f"the images of {files.folder / name}.npy are {shape}, those of {dataset.name} {clean}; "
                f"get it again from {release.where}"
            )
    return Official(dataset, _cells(names), files)


def _auto(dataset: Dataset, names: tuple[str, ...], data_root: Path, seed: int) -> CorruptionSource:
    if find_official(dataset.name, data_root) is not None:
        return _official(dataset, names, data_root, seed)
    return _regenerated(dataset, names, data_root, seed)


def _official_of(name: str) -> Callable[[Dataset, tuple[str, ...], Path, int], CorruptionSource]:
    def choose(dataset: Dataset, names: tuple[str, ...], data_root: Path, seed: int) -> CorruptionSource:
        if dataset.name in RELEASES and dataset.name != name:
            raise AdvdpnpError(f"{name}-c belongs to {name}, not to {dataset.name}; use --corruptions auto")
        return _official(dataset, names, data_root, seed)

    return choose


MODES: dict[str, Callable[[Dataset, tuple[str, ...], Path, int], CorruptionSource]] = {
    "auto": _auto,
    "regenerated": _regenerated,
    **{f"{name}-c": _official_of(name) for name in RELEASES},
}
"""The values of ``--corruptions`` other than "none"."""


def as_bytes(dataset: Dataset) -> Dataset:
    """The data set with uint8 test images, which corruptions need; floats in [0, 1] are rounded to levels."""
    test = dataset.test
    if test.images.dtype == torch.uint8:
        return dataset
    return replace(dataset, test=Split((test.images * 255).round().to(torch.uint8), test.labels))


def corruption_cells(
    mode: str,
    dataset: Dataset,
    data_root: Path | None = None,
    seed: int = 0,
    *,
    types: str | Sequence[str] = "benchmark",
) -> CorruptionSource | None:
    """The requested source of corrupted test images, checked so that a long run does not fail on it later.

    Args:
        mode: "none"; "auto" (the official files if their folder exists, otherwise regenerated); "cifar10-c" or
            "cifar100-c" (the official files); "regenerated".
        dataset: the clean data set, with test images in the order of their files.
        data_root: folder of the data sets; by default ADVDPNP_DATA, or ./data if it is not set.
        seed: seed of regenerated corruptions.
        types: "benchmark" (15), "all" (19), or names, including those of plug-ins; see ``choose_types``.

    Returns:
        The source, or None for the mode "none".

    Raises:
        AdvdpnpError: a mode or type is unknown, a plug-in fails, or official files are missing, damaged or of another
            data set.
    """
    if mode == "none":
        return None
    if mode not in MODES:
        raise AdvdpnpError(f"there are no corruptions called '{mode}'; choose one of none, {', '.join(MODES)}")
    root = default_data_root() if data_root is None else data_root
    return MODES[mode](dataset, choose_types(types), root, seed)
