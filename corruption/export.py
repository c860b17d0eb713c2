"""Writes regenerated corruptions in the layout of the official files, for tools that read them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, TypeAdapter

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import atomic_path, write_text
from advdpnp.base.untrusted.files import LARGEST_JSON, STRICT, Count, Sha256, Text, parse_json, read_bounded, validated
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
        label: label of the data set, which the marker contains.
        out: folder, created if necessary; each file is written atomically.
        names: the types to write.
        seed: seed of the corruptions.
        progress: called after each type and severity.

    Returns:
        The paths of the written files.

    Raises:
        AdvdpnpError: unknown type; the folder contains other images or another seed, or cannot be written; or the disk
            is full.

    The marker (regenerated.json) distinguishes the folder from the official files, and records the data and the seed of
    all files in the folder.
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


class _Marker(BaseModel):
    model_config = STRICT

    data: Text
    images: Sha256
    seed: Count
    version: Count
    frost: Text


_MARKER = TypeAdapter(_Marker)


def check_export(test: Split, label: str, out: Path, *, seed: int) -> dict[str, Any]:
    """Check that existing files of a folder come from the same images and seed, because one marker describes them all.

    Returns:
        The content of the marker.

    Raises:
        AdvdpnpError: ``out`` is not a folder, or contains files of another program, other images or another seed.
    """
    about = {
        "data": f"{label}-c (regenerated)",
        "images": test.content_hash,
        "seed": seed,
        "version": VERSION,
        "frost": "drawn textures",
    }
    if out.is_file():
        raise AdvdpnpError(f"{out} is a file; give a folder, which is created if necessary")
    if not any(out.glob("*.npy")):
        return about
    try:
        marker = validated(_MARKER, parse_json(read_bounded(out / MARKER, LARGEST_JSON))).model_dump()
        differ = [key for key, value in about.items() if marker[key] != value]
    except FileNotFoundError:
        raise AdvdpnpError(f"{out} contains files that advdpnp did not write; choose another folder") from None
    except (OSError, ValueError):
        raise AdvdpnpError(
            f"{out / MARKER} does not describe the files in its folder; delete the folder or choose another"
        ) from None
    if "seed" in differ:
        raise AdvdpnpError(
            f"{out} contains corruptions of seed {marker['seed']}, not {about['seed']}; choose another folder"
        )
    if differ:
        raise AdvdpnpError(
            f"{out} contains corruptions of other images (or of fewer, or of another version of advdpnp); delete it or "
            "choose another folder"
        )
    return about


def _labels(test: Split) -> np.ndarray:
    labels = test.labels.cpu().numpy()
    kind = np.uint8 if not len(labels) or labels.max() < 256 else np.int64
    return np.tile(labels.astype(kind), len(SEVERITIES))
