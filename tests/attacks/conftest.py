"""Small models with known properties, and a way to run an attack on them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advdpnp.attacks import ATTACKS, AttackResult, ThreatModel, search


class Linear(nn.Module):
    """A linear model of two classes: logits (w·x + b, -(w·x + b)) * scale + shift."""

    def __init__(self, w: Tensor, b: Tensor, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.w, self.b, self.scale, self.shift = w, b, scale, shift

    def value(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w.to(x.dtype) + self.b.to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        value = self.value(x)
        return torch.stack([value, -value], 1) * self.scale + self.shift


class Affine(nn.Module):
    """A model with scaled and shifted logits."""

    def __init__(self, model: nn.Module, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.model, self.scale, self.shift = model, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x) * self.scale + self.shift
        return logits


class Rounded(nn.Module):
    """A model that computes in float64 and answers in float32.

    What batches of other sizes, other kernels and other processors round differently is far below what float32 keeps.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.double()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x.double()).float()
        return logits


def convolutional(classes: int, seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, classes),
    )
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
        net[1].running_mean.copy_(torch.rand(8, generator=generator) * 0.1)
    return net.eval()


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def net() -> nn.Sequential:
    """A convolutional net with BatchNorm, 10 classes, for 16x16 images."""
    return convolutional(10)


@pytest.fixture
def make_net() -> Callable[..., nn.Sequential]:
    return convolutional


@pytest.fixture
def affine() -> type[Affine]:
    return Affine


@pytest.fixture
def rounded() -> type[Rounded]:
    return Rounded


@pytest.fixture
def linear() -> type[Linear]:
    return Linear


@pytest.fixture
def images() -> Tensor:
    """60 images (60, 3, 16, 16)."""
    return torch.rand(60, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels(net: nn.Module, images: Tensor) -> Tensor:
    """The predictions of ``net``, except for the first five labels, which are wrong."""
    with torch.no_grad():
        y = net(images).argmax(1)
    y[:5] = (y[:5] + 1) % 10
    return y


@pytest.fixture
def attack() -> Callable[..., Any]:
    def make(name: str, eps: float | str = 0.01, norm: str = "linf", classes: int = 10) -> Any:
        return ATTACKS.make(name, threat=ThreatModel.parse(norm, eps), classes=classes)

    return make


@pytest.fixture
def find() -> Callable[..., AttackResult]:
    """Run a search to its end. Results are sorted by sample."""

    def run(
        model: nn.Module, attack: Any, x: Tensor, y: Tensor, sample: Tensor | None = None, **options: Any
    ) -> AttackResult:
        sample = torch.arange(len(x)) if sample is None else sample
        settings = {"seed": 0, "static_batch_size": 16, **options}
        found = AttackResult.concatenate(list(search(model, attack, x, y, sample, **settings)))
        return found[found.sample.argsort()]

    return run


@pytest.fixture
def data_root() -> Path:
    root = os.environ.get("ADVDPNP_DATA")
    if not root or not (Path(root) / "checkpoints").is_dir():
        pytest.skip("ADVDPNP_DATA names no folder with real data")
    return Path(root)


@pytest.fixture
def real_net(data_root: Path) -> nn.Sequential:
    """A public, adversarially trained CIFAR-10 model."""

    class Normalise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1))
            self.register_buffer("std", torch.tensor([0.2023, 0.1994, 0.2010]).view(3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return (x - self.mean) / self.std

    net = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    net.load_state_dict(torch.load(data_root / "checkpoints" / "cifar_cnn_a_adv.model", weights_only=True))
    return nn.Sequential(Normalise(), net).eval()


@pytest.fixture
def real_images(data_root: Path) -> tuple[Tensor, Tensor]:
    """The first 64 CIFAR-10 test images and labels."""
    import pickle

    with open(data_root / "cifar-10-batches-py" / "test_batch", "rb") as stream:
        batch = pickle.load(stream, encoding="bytes")
    x = torch.from_numpy(batch[b"data"][:64]).reshape(-1, 3, 32, 32).float() / 255
    return x, torch.tensor(batch[b"labels"][:64])
