"""A data set small enough to train on in a second."""

import pytest
import torch

from advdpnp.datasets.base import Dataset, Split


def _split(n: int, seed: int) -> Split:
    """Four classes of 8x8 gray images, told apart by which quadrant is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    images = torch.randint(0, 90, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    for index, label in enumerate(labels.tolist()):
        row, column = 4 * (label // 2), 4 * (label % 2)
        images[index, :, row : row + 4, column : column + 4] += 120
    return Split(images, labels)


@pytest.fixture(scope="session")
def quadrants() -> Dataset:
    return Dataset(
        "quadrants", ("nw", "ne", "sw", "se"), _split(96, 0), _split(32, 1), _split(32, 2), augmentation="none"
    )
