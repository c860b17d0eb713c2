"""Splits the 10,000 test images of MNIST into training and test images, where the 60,000 training images are missing.

    python -m benchmarks.mnist_split --data-root DATA --out data/mnist-split.npz
    advdpnp train --recipe ed-wta --dataset npz:data/mnist-split.npz

Numbers on this split are not numbers on MNIST: a sixth of the training images, and another test set.
"""

import gzip
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import atomic_path
from advdpnp.base.randomness import seed_of
from advdpnp.datasets.base import default_data_root, stratified
from benchmarks import timing

_FILES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in a gzipped IDX file: two zero bytes, the type (8), the number of axes, their lengths, values.

    Raises:
        AdvdpnpError: the file is missing or of another format.
    """
    try:
        with gzip.open(path) as stream:
            content = stream.read()
    except (OSError, EOFError) as error:
        raise AdvdpnpError(f"cannot read {path} ({error}); put MNIST's four .gz files into this folder") from error
    axes = content[3] if content[:3] == b"\x00\x00\x08" else 0
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
    values = np.frombuffer(content, np.uint8)[4 + 4 * axes :]
    if not axes or values.size != np.prod(shape):
        raise AdvdpnpError(f"{path} is no IDX file of bytes, or truncated; copy it again")
    return values.reshape(shape)


def split(images: np.ndarray, labels: np.ndarray, count: int, seed: int) -> dict[str, np.ndarray]:
    """Arrays for an .npz file: ``count`` test images, stratified by class, and the other images for training."""
    test, train = (
        index.numpy() for index in stratified(torch.tensor(labels, dtype=torch.int64), count, seed_of("mnist", seed))
    )
    return {"x_train": images[train], "y_train": labels[train], "x_test": images[test], "y_test": labels[test]}


def main(
    data_root: Annotated[Path | None, typer.Option(help="Folder of the data sets; default ADVDPNP_DATA.")] = None,
    test: Annotated[int, typer.Option(min=1, max=9999, help="Number of test images.")] = 2000,
    seed: Annotated[int, typer.Option(help="Determines which images these are.")] = 0,
    out: Annotated[Path, typer.Option(help="The .npz file to write.")] = Path("data/mnist-split.npz"),
) -> None:
    """Write the split as an .npz file."""
    folder = (data_root or default_data_root()) / "mnist"
    arrays = split(*(read_idx(folder / name) for name in _FILES), count=test, seed=seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    typer.echo(f"{out}: {len(arrays['y_train'])} training images, {len(arrays['y_test'])} test images")


if __name__ == "__main__":
    timing.run_script(main)
