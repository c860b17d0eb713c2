"""Time of all 19 corruptions at 5 severities, ours and those of imagecorruptions.

    pip install -c constraints.txt '.[benchmarks]'
    python -m benchmarks.corruptions --out results/benchmarks

imagecorruptions takes one image at a time, on one core, with the constants of ImageNet; some of its functions fail with
today's NumPy and scikit-image and are left out of the ratio. It gets fewer images, and its time is multiplied up.
"""

import importlib
import statistics
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor

from advdpnp.base.compat import stand_ins
from advdpnp.base.errors import first_line
from advdpnp.corruption import BENCHMARK, EXTRA, SEVERITIES, corrupt
from advdpnp.datasets import load_dataset
from benchmarks import timing

Row = timing.Row
OURS, THEIRS = "advdpnp", "imagecorruptions"


def import_imagecorruptions() -> ModuleType | None:
    """None if it is not installed. It wants the ``pkg_resources`` that setuptools no longer has."""
    with stand_ins("pkg_resources"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(THEIRS)
        except ImportError:
            return None


def ours(images: Tensor, name: str) -> None:
    """All severities of one type."""
    for severity in SEVERITIES:
        corrupt(images, name, severity)


def theirs(package: Any, images: np.ndarray, name: str) -> None:
    """The same, image by image."""
    for severity in SEVERITIES:
        for image in images:
            package.corrupt(image, corruption_name=name, severity=severity)


def compare(images: Tensor, theirs_get: int, repeats: int, package: ModuleType | None) -> Iterator[Row]:
    """One line per type: seconds for all images at five severities, the medians of the turns."""
    fewer = np.ascontiguousarray(images[:theirs_get].permute(0, 2, 3, 1).numpy())
    factor = len(images) / len(fewer)
    for name in BENCHMARK + EXTRA:
        works = {OURS: partial(ours, images, name)}
        ours(images[:256], name)
        problem = "not installed"
        if package is not None:
            problem = _problem(package, fewer[0], name)
            if not problem:
                works[THEIRS] = partial(theirs, package, fewer, name)
        turns: dict[str, list[timing.Turn]] = {side: [] for side in works}
        for _ in range(repeats):
            for side, work in works.items():
                turns[side].append(timing.time_calls(work, 1))
        mine = statistics.median(turn.wall for turn in turns[OURS])
        row = {"part": "all images, five severities", "case": name, "seconds": mine}
        if THEIRS in turns:
            other = factor * statistics.median(turn.wall for turn in turns[THEIRS])
            row |= {f"{THEIRS}, extrapolated": other, "ratio": other / mine}
        yield row | {"remark": f"{THEIRS}: {problem}" if problem else ""}


def _problem(package: Any, image: np.ndarray, name: str) -> str:
    """What keeps their function from running, or ""; this call also warms it up."""
    try:
        for severity in SEVERITIES:
            package.corrupt(image, corruption_name=name, severity=severity)
    except Exception as error:
        return first_line(error)
    return ""


def main(
    count: Annotated[int, typer.Option("--images", min=8, help="CIFAR-10 test images for ours.")] = 10_000,
    theirs_get: Annotated[int, typer.Option("--theirs", min=8, help="Images for imagecorruptions.")] = 500,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    out: Annotated[Path | None, typer.Option(help="Folder, or CSV, for the table.")] = None,
) -> None:
    """Time all cells, print the table, and the ratio over all in the last line."""
    images = load_dataset("cifar10", train=False).test.images[:count]
    with timing.threads(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = pd.DataFrame(list(compare(images, min(theirs_get, len(images)), repeats, import_imagecorruptions())))
    cells = len(table) * len(SEVERITIES)
    last = f"{cells} cells on {len(images)} images: {table['seconds'].sum():.0f} s"
    if "ratio" in table:
        both = table[table["ratio"].notna()]
        ratio = both[f"{THEIRS}, extrapolated"].sum() / both["seconds"].sum()
        last += (
            f"; against {THEIRS} (one image at a time, {theirs_get} images, extrapolated), over the {len(both)} types "
            f"that still run there: {ratio:.1f}"
        )
    cpu = torch.device("cpu")
    timing.publish("corruptions", "Time of corruptions", table, last, threads=threads, device=cpu, out=out)


if __name__ == "__main__":
    timing.run_script(main)
