"""Write regenerated corruptions in the layout of the official files, for tools that read those."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from advdpnp.corruption.apply import corrupt
from advdpnp.corruption.official import MARKER
from advdpnp.corruption.registry import SEVERITIES, find_corruption
from advdpnp.corruption.source import VERSION
from advdpnp.corruption.types import BENCHMARK, EXTRA
from advdpnp.datasets.base import Split
from advdpnp.errors import AdvdpnpError
from advdpnp.files import atomic_path, write_text

_AT_ONCE = 1000


def export_corruptions(
    test: Split,
    label: str,
    out: Path,
    *,
    names: Sequence[str] = BENCHMARK + EXTRA,
    seed: int = 0,
    progress: Callable[[str, int], None] = lambda name, severity: None,
) -> list[Path]:
    """Write ``out/<type>.npy``, uint8 (5 n, h, w, c), ``out/labels.npy``, uint8 (5 n,), and a marker.

    Args:
        test: the clean images and labels.
        label: of the data set; stands in the marker.
        out: folder, made if need be; each file takes its place when whole.
        names: the types to write.
        seed: of the run.
        progress: called after each type and severity.

    Returns:
        The files written.

    Raises:
        AdvdpnpError: unknown type; the folder holds other images, cannot be written, or the disk is full.

    The marker (regenerated.json) keeps the folder from being taken for the official files.
    """
    for name in names:
        find_corruption(name)
    check_export(test, out)
    about = {"data": f"{label}-c (regenerated)", "seed": seed, "version": VERSION, "frost": "drawn textures"}
    write_text(out / MARKER, json.dumps(about, indent=2) + "\n")
    written = [out / f"{name}.npy" for name in names]
    n, c, h, w = test.images.shape
    for name, path in zip(names, written, strict=True):
        # Written piece by piece and not through a memory map: on a full disk that ends in a signal, not in an error.
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            shape = (len(SEVERITIES) * n, h, w, c)
            np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for severity in SEVERITIES:
                for start in range(0, n, _AT_ONCE):
                    chosen = torch.arange(start, min(start + _AT_ONCE, n))
                    images = corrupt(
                        test.images[chosen.to(test.images.device)], name, severity, seed=seed, sample=chosen
                    )
                    stream.write(images.permute(0, 2, 3, 1).contiguous().cpu().numpy().tobytes())
                progress(name, severity)
    with atomic_path(out / "labels.npy") as temporary, open(temporary, "wb") as stream:
        np.save(stream, _labels(test))
    return [*written, out / "labels.npy"]


def check_export(test: Split, out: Path) -> None:
    """See that what a folder holds already can stand beside corruptions of these images.

    Raises:
        AdvdpnpError: it holds files that were not made here, or corruptions of images with other labels.
    """
    if any(out.glob("*.npy")) and not (out / MARKER).exists():
        raise AdvdpnpError(f"{out} holds files that were not made by advdpnp; choose another folder")
    if not (out / "labels.npy").exists():
        return
    try:
        same = np.array_equal(np.load(out / "labels.npy", allow_pickle=False), _labels(test))
    except (OSError, ValueError):
        same = False
    if not same:
        raise AdvdpnpError(f"{out} holds corruptions of other images (or of fewer); delete it or choose another folder")


def _labels(test: Split) -> np.ndarray:
    labels = test.labels.cpu().numpy()
    kind = np.uint8 if not len(labels) or labels.max() < 256 else np.int64
    return np.tile(labels.astype(kind), len(SEVERITIES))
