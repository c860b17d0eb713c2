"""Writes regenerated corruptions in the layout of the official files, for tools that read them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import atomic_path, write_text
from advdpnp.corruption.apply import corrupt
from advdpnp.corruption.official import MARKER
from advdpnp.corruption.registry import SEVERITIES, find_corruption
from advdpnp.corruption.source import VERSION
from advdpnp.corruption.types import BENCHMARK, EXTRA
from advdpnp.datasets.base import Split

_AT_ONCE = 1000


def export_corruptions(
    test: Split,
    label: str,
    out: Path | str,
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
        AdvdpnpError: unknown type; the folder holds other images or another seed, cannot be written, or the disk is
            full.

    The marker (regenerated.json) keeps the folder from being taken for the official files, and says what all files of
    the folder were made with.
    """
    out = Path(out)
    for name in names:
        find_corruption(name)
    about = check_export(test, label, out, seed=seed)
    write_text(out / MARKER, json.dumps(about, indent=2) + "\n")
    written = [out / f"{name}.npy" for name in names]
    n, c, h, w = test.images.shape
    for name, path in zip(names, written, strict=True):
        # Written in pieces instead of a memory map, which on a full disk raises a signal instead of an error.
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


def check_export(test: Split, label: str, out: Path, *, seed: int) -> dict[str, Any]:
    """See that what a folder holds already was made of these images with this seed, for one marker tells of all of it.

    Returns:
        What the marker shall say.

    Raises:
        AdvdpnpError: it is no folder, or holds files that were made elsewhere, otherwise, or of other images.
    """
    about = {
        "data": f"{label}-c (regenerated)",
        "images": test.content_hash,
        "seed": seed,
        "version": VERSION,
        "frost": "drawn textures",
    }
    if out.is_file():
        raise AdvdpnpError(f"{out} is a file; give a folder, made if need be")
    if not any(out.glob("*.npy")):
        return about
    try:
        marker = json.loads((out / MARKER).read_text(encoding="utf-8"))
        differ = [key for key, value in about.items() if marker[key] != value]
    except FileNotFoundError:
        raise AdvdpnpError(f"{out} holds files that were not made by advdpnp; choose another folder") from None
    except (OSError, ValueError, TypeError, KeyError):
        raise AdvdpnpError(
            f"{out / MARKER} does not tell how the files beside it were made; delete the folder or choose another"
        ) from None
    if "seed" in differ:
        raise AdvdpnpError(
            f"{out} holds corruptions of seed {marker['seed']}, not {about['seed']}; choose another folder"
        )
    if differ:
        raise AdvdpnpError(
            f"{out} holds corruptions of other images (or of fewer, or of another version of advdpnp); delete it or "
            "choose another folder"
        )
    return about


def _labels(test: Split) -> np.ndarray:
    labels = test.labels.cpu().numpy()
    kind = np.uint8 if not len(labels) or labels.max() < 256 else np.int64
    return np.tile(labels.astype(kind), len(SEVERITIES))
