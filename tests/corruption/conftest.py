"""Images that the tests of corruptions share."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

MakeImages = Callable[[int, int, int], Tensor]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_images() -> MakeImages:
    """make_images(n, channels, size): smooth uint8 images with dark, bright, grey and coloured places and edges."""

    def make(n: int, channels: int, size: int) -> Tensor:
        generator = torch.Generator().manual_seed(n * 1000 + channels * 100 + size)
        coarse = torch.rand(n, channels, 5, 5, generator=generator) * 1.5 - 0.25
        x = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)
        x[:, :, : size // 4, : size // 4] = 0.5  # flat grey
        x[:, :, -(size // 4) :, : size // 4] = (torch.arange(size // 4) % 2).float()  # hard edges
        return (x.clamp(0, 1) * 255).to(torch.uint8)

    return make


@pytest.fixture(scope="session")
def natural() -> Tensor:
    """100 test images of CIFAR-10 where ADVDPNP_DATA has it, else synthetic ones; uint8 (100, 3, 32, 32)."""
    root = os.environ.get("ADVDPNP_DATA")
    path = Path(root) / "cifar-10-batches-py" / "test_batch" if root else None
    if path is None or not path.is_file():
        return _smooth(100)
    with open(path, "rb") as stream:
        data = pickle.load(stream, encoding="bytes")[b"data"]
    return torch.from_numpy(data[:100].reshape(-1, 3, 32, 32).copy())


def _smooth(n: int) -> Tensor:
    """Images with less and less of what is finer and finer, as natural ones; uint8 (n, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.full((n, 3, 32, 32), 0.5)
    for cells, strength in ((3, 0.5), (6, 0.35), (12, 0.25), (32, 0.08)):
        grid = torch.rand(n, 3, cells, cells, generator=generator) - 0.5
        x += strength * torch.nn.functional.interpolate(grid, (32, 32), mode="bicubic", align_corners=True)
    return (x.clamp(0, 1) * 255).to(torch.uint8)
