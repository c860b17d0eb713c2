"""What all tests need of their process, and a data set small enough to train on in a second."""

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advdpnp.datasets.base import Dataset, Split

_REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """Signals do what they do by default: under nohup, or in the background of a script, some are ignored, and children
    of a process inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGHUP", "SIGTERM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Workers share the cores: one thread each, and one for each process that a test starts.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, so that no worker begins one when the others have nothing left."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


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


@pytest.fixture
def in_own_process() -> Callable[[Path], None]:
    """Run the tests of a file that pytest does not collect in a process of their own.

    torch learns of a simulated device before its first gradient or never, and a process that knows one cannot fork.
    """

    def run(path: Path) -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=_REPOSITORY)
        assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]

    return run


@pytest.fixture
def sim(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The simulated accelerator of ``benchmarks.operations``, open: tensors can be on the device "sim".

    For files that ``in_own_process`` runs.
    """
    registration = importlib.import_module("torch.utils.backend_registration")
    if not hasattr(registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch has no backends that are written in Python")
    monkeypatch.syspath_prepend(str(_REPOSITORY))
    with importlib.import_module("benchmarks.operations.device").SimulatedDevice() as device:
        yield device


@pytest.fixture
def save_npz(tmp_path: Path) -> Callable[[int, int], Path]:
    """Save a data set of a user's own as own.npz: four classes of 8x8 images, the bright quadrant is the class."""

    def save(train: int, channels: int) -> Path:
        generator = np.random.default_rng(0)
        arrays = {}
        for part, n in (("train", train), ("test", 40)):
            labels = np.arange(n) % 4
            images = generator.integers(0, 90, (n, 8, 8, channels), dtype=np.uint8)
            for image, label in zip(images, labels, strict=True):
                image[4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 120
            arrays |= {f"x_{part}": images, f"y_{part}": labels}
        path = tmp_path / "own.npz"
        np.savez(path, **arrays)
        return path

    return save
