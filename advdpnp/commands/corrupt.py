"""What ``advdpnp corrupt`` does: all corruptions of a data set, in the layout of the official files."""

from pathlib import Path

from advdpnp.base.files import folder_lock
from advdpnp.commands.console import counting_bar
from advdpnp.commands.console import out as console
from advdpnp.corruption.export import check_export, export_corruptions
from advdpnp.corruption.registry import CORRUPTIONS, SEVERITIES, choose_types
from advdpnp.corruption.sheet import draw_sheet
from advdpnp.corruption.source import as_bytes
from advdpnp.corruption.types import in_order
from advdpnp.datasets.base import load_dataset

SHEET = "sheet.png"


def corrupt_command(
    dataset: str, folder: Path, *, types: str, limit: int | None, seed: int, data_root: Path | None, download: bool
) -> None:
    """Corrupt the test images and write one file per type, and a sheet to look at.

    Raises:
        AdvdpnpError: unknown data set or type; the folder holds files that were not made here, or cannot be written.
    """
    names = choose_types(types)
    data = as_bytes(load_dataset(dataset, data_root=data_root, download=download, train=False))
    test = data.test if limit is None else data.test.head(limit)
    check_export(test, data.label, folder, seed=seed)  # a folder of somebody else's gets no lock either
    steps = len(names) * len(SEVERITIES)
    with folder_lock(folder), counting_bar(f"{data.label}, {len(test)} images", steps) as count:
        written = export_corruptions(
            test, data.label, folder, names=names, seed=seed, progress=lambda name, severity: count()
        )
        present = [name for name in in_order(CORRUPTIONS.names()) if (folder / f"{name}.npy").exists()]
        draw_sheet(test.images[0], folder / SHEET, names=present, seed=seed)
    console.print(f"{len(written)} files in {folder}, and {SHEET}: the first image under all types there", markup=False)
