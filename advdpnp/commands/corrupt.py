"""``advdpnp corrupt``: all corruptions of a data set, in the layout of the official files."""

from pathlib import Path
from typing import Annotated

import typer

from advdpnp.base.files import folder_lock
from advdpnp.commands.support import console
from advdpnp.commands.support.options import DataRoot, Download, Seed

EPILOG = "Example: `advdpnp corrupt --dataset cifar10 --out data/cifar10-c-regenerated`"

Out = Annotated[Path, typer.Option(help="Folder for TYPE.npy and labels.npy.")]
Dataset = Annotated[str, typer.Option(help="A data set of `advdpnp list datasets`.")]
Types = Annotated[
    str, typer.Option(help="`all`, `benchmark`, or names of `advdpnp list corruptions`, comma-separated.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Corrupt only the first N test images.")]

SHEET = "sheet.png"


def corrupt(
    out: Out,
    dataset: Dataset = "cifar10",
    types: Types = "all",
    limit: Limit = None,
    seed: Seed = 0,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Write corrupted test images in the layout of the official CIFAR-10-C files, and a sheet to look at."""
    from advdpnp.corruption.export import check_export, export_corruptions
    from advdpnp.corruption.registry import CORRUPTIONS, SEVERITIES, choose_types
    from advdpnp.corruption.sheet import draw_sheet
    from advdpnp.corruption.source import as_bytes
    from advdpnp.corruption.types import in_order
    from advdpnp.datasets.base import load_dataset

    names = choose_types(types)
    data = as_bytes(load_dataset(dataset, data_root=data_root, download=download, train=False))
    test = data.test if limit is None else data.test.head(limit)
    check_export(test, data.label, out, seed=seed)  # a folder with other files gets no lock
    steps = len(names) * len(SEVERITIES)
    with folder_lock(out), console.counting_bar(f"{data.label}, {len(test)} images", steps) as count:
        written = export_corruptions(
            test, data.label, out, names=names, seed=seed, progress=lambda name, severity: count()
        )
        present = [name for name in in_order(CORRUPTIONS.names()) if (out / f"{name}.npy").exists()]
        draw_sheet(test.images[0], out / SHEET, names=present, seed=seed)
    console.out.print(f"{len(written)} files in {out}, and {SHEET}: the first image under all types there")
