"""Images that are no test images of a data set: other data sets, corrupted test images, and noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from advdpnp.base.errors import AdvdpnpError, did_you_mean
from advdpnp.base.randomness import Draw, seed_of
from advdpnp.corruption import CORRUPTIONS
from advdpnp.corruption.apply import corrupt
from advdpnp.corruption.registry import SEVERITIES
from advdpnp.corruption.source import as_bytes
from advdpnp.datasets import DATASETS, Dataset, load_dataset, to_float

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts to "L"
_BLOCK = 512  # images converted at once


@dataclass(frozen=True)
class ImageSet:
    """Images under a name: uint8 (n, c, h, w) in the size and channels of the test images."""

    name: str
    images: Tensor


def as_float(images: Tensor) -> Tensor:
    """Images of a split as float32 in [0, 1]."""
    return to_float(images) if images.dtype == torch.uint8 else images.float()


def outlier_set(
    spec: str, data: Dataset, *, limit: int | None, seed: int, data_root: Path | None = None, download: bool = False
) -> ImageSet:
    """The outliers that ``spec`` names, at most ``limit`` of them.

    Args:
        spec: ``corruption:TYPE-SEVERITY`` (the test images, corrupted), ``noise:uniform``, ``noise:gaussian``, or any
            data set, whose test images are used.
        data: the data set whose test images are normal.
        limit: number of images; None takes all of a data set, and of noise as many as there are test images.
        seed: seed of noise and corruptions.
        data_root, download: as for ``load_dataset``.

    Raises:
        AdvdpnpError: there is no such set, it cannot be loaded, or it is ``data`` itself.
    """
    kind, colon, rest = spec.partition(":")
    if colon and kind in _MADE:
        return ImageSet(spec, _MADE[kind](rest, data, limit, seed))
    try:
        DATASETS.find(spec)
    except AdvdpnpError:
        known = [*DATASETS.names(), *(f"noise:{name}" for name in _NOISE), "corruption:gaussian_noise-5"]
        hint = did_you_mean(spec, known, otherwise=f"choose a data set, noise:{' or noise:'.join(_NOISE)}, or a "
                            "corruption such as corruption:gaussian_noise-5")  # fmt: skip
        raise AdvdpnpError(f"there are no outliers called '{spec}'; {hint}") from None
    other = as_bytes(load_dataset(spec, data_root=data_root, download=download, train=False))
    if other.test.content_hash == data.test.content_hash:
        raise AdvdpnpError(f"{spec} has the very test images that are to be normal; name another data set")
    if not len(other.test):
        raise AdvdpnpError(f"{spec} has no test images; name another data set")
    return ImageSet(other.label, converted(other.test.head(limit).images, data.channels, data.image_size))


def converted(images: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Images in other channels and another size.

    Gray becomes RGB by repetition, RGB gray by its luma (ITU-R BT.601). Then images are resized by bilinear
    interpolation with antialiasing, whatever their aspect ratio, and rounded. Images that fit already stay as they are.

    Args:
        images: uint8 (n, 1 or 3, h, w).
        channels: 1 or 3.
        size: height and width in pixels.

    Returns:
        uint8 (n, channels, *size).
    """
    if (images.shape[1], *images.shape[2:]) == (channels, *size):
        return images
    return torch.cat([_convert(part, channels, size) for part in images.split(_BLOCK)])


def _convert(images: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    x = to_float(images)
    if x.shape[1] == 3 and channels == 1:
        x = (x * torch.tensor(_LUMA).reshape(3, 1, 1)).sum(1, keepdim=True)
    elif x.shape[1] == 1 and channels == 3:
        x = x.expand(-1, 3, -1, -1)
    if tuple(x.shape[2:]) != size:
        x = torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True)
    return _to_bytes(x)


def _to_bytes(x: Tensor) -> Tensor:
    return (x * 255).round().clamp(0, 255).to(torch.uint8)


def _corrupted(text: str, data: Dataset, limit: int | None, seed: int) -> Tensor:
    name, dash, severity = text.rpartition("-")
    if not (dash and severity in map(str, SEVERITIES)):
        raise AdvdpnpError(
            f"'corruption:{text}' names no type and severity; write for example corruption:gaussian_noise-5, with a "
            f"severity from {SEVERITIES[0]} to {SEVERITIES[-1]}"
        )
    CORRUPTIONS.find(name)
    return corrupt(as_bytes(data).test.head(limit).images, name, int(severity), seed=seed)


def _noise(text: str, data: Dataset, limit: int | None, seed: int) -> Tensor:
    if text not in _NOISE:
        hint = did_you_mean(text, _NOISE, otherwise=f"choose {' or '.join(_NOISE)}")
        raise AdvdpnpError(f"there is no noise called '{text}'; {hint}")
    draw = Draw.of(seed_of("outliers", text, seed), torch.arange(len(data.test.head(limit))))
    shape = (data.channels, *data.image_size)
    parts = [_NOISE[text](draw[start : start + _BLOCK], shape) for start in range(0, len(draw.key), _BLOCK)]
    return torch.cat([_to_bytes(part) for part in parts])


_NOISE: dict[str, Callable[[Draw, tuple[int, ...]], Tensor]] = {
    "uniform": lambda draw, shape: draw.uniform(shape),
    "gaussian": lambda draw, shape: draw.normal(shape) + 0.5,
}
"""Every value alone, uniform in [0, 1] or normal with mean 0.5 and deviation 1, clipped (Liang et al., ODIN, 2018)."""

_MADE: dict[str, Callable[[str, Dataset, int | None, int], Tensor]] = {"corruption": _corrupted, "noise": _noise}


def outlier_sets(specs: Sequence[str], data: Dataset, **options: object) -> list[ImageSet]:
    """The sets of ``specs``, each once; arguments as ``outlier_set``."""
    return [outlier_set(spec, data, **options) for spec in dict.fromkeys(specs)]  # type: ignore[arg-type]
