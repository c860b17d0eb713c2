"""What ``advdpnp corrupt`` does: all corruptions of a data set, in the layout of the official files."""

from pathlib import Path

from advdpnp.console import counting_bar
from advdpnp.console import out as console
from advdpnp.corruption.export import export_corruptions, same_images
from advdpnp.corruption.official import MARKER
from advdpnp.corruption.registry import SEVERITIES, find_corruption
from advdpnp.corruption.source import as_bytes
from advdpnp.corruption.types import BENCHMARK, EXTRA
from advdpnp.datasets.base import load_dataset
from advdpnp.errors import AdvdpnpError


def corrupt_command(
    dataset: str, folder: Path, *, types: str, limit: int | None, seed: int, data_root: Path | None, download: bool
) -> None:
    """Corrupt the test images and write one file per type.

    Raises:
        AdvdpnpError: unknown data set or type; the folder holds files that were not made here, or cannot be written.
    """
    names = BENCHMARK + EXTRA if types == "all" else tuple(name.strip() for name in types.split(",") if name.strip())
    if not names:
        raise AdvdpnpError("--types names no corruption; see 'advdpnp list corruptions'")
    if (folder / "labels.npy").exists() and not (folder / MARKER).exists():
        raise AdvdpnpError(f"{folder} holds files that were not made by this command; choose another --out")
    data = as_bytes(load_dataset(dataset, data_root=data_root, download=download, train=False))
    test = data.test if limit is None else data.test.head(limit)
    for name in names:
        find_corruption(name)
    if (folder / "labels.npy").exists() and not same_images(test, folder):
        raise AdvdpnpError(
            f"{folder} holds corruptions of other images (or of fewer); delete it or choose another --out"
        )
    with counting_bar(f"{data.label}, {len(test)} images", len(names) * len(SEVERITIES)) as count:
        written = export_corruptions(
            test, data.label, folder, names=names, seed=seed, progress=lambda name, severity: count()
        )
    console.print(f"{len(written)} files in {folder}", markup=False)
