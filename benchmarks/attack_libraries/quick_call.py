"""Processor time of one call with PGD-20: with the measurements for flags, without, and torchattacks' bare call.

    python -m benchmarks.attack_libraries.quick_call --out results/benchmarks

64 images; two nets of two convolutions that learn digits here, and a robust net of this repository on CIFAR-10.
torchattacks makes 20 gradients for every image and says nothing of them; ours ends at an image's first success, judges
it on the net, and tries the net on all images for the flags.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import torchattacks
import typer
from torch import Tensor, nn

import advdpnp
from advdpnp.datasets import load_dataset, to_float
from advdpnp.models.loading import load_model
from benchmarks import timing

CHECKPOINTS = Path(__file__).parents[2] / "results" / "checkpoints"
RESNET = "cifar10-resnet18-w16-pgd-at-s0"
BARE = "torchattacks PGD, 20 steps"
MODULE = "benchmarks.attack_libraries.quick_call"


def main(
    samples: Annotated[int, typer.Option(min=1, help="Images of a call.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Turns.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Folder for quick-call.csv and .md.")] = None,
) -> None:
    """Time the calls in turns."""
    rows = []
    with timing.threads(threads):
        for name, net, x, y, eps in _nets(samples):
            calls = _calls(net, x, y, eps)
            rows += timing.table_rows(f"{samples} images", name, timing.in_turns(calls, 4, repeats), BARE)
    last = "cpu_relative: processor time over that of torchattacks in the same turn, median."
    facts = timing.circumstances(timing.command_of(MODULE), threads, torch.device("cpu"))
    timing.Report("quick-call", "One call with PGD-20", facts, pd.DataFrame(rows), last).publish(out)


def _calls(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> dict[str, Callable[[], object]]:
    bare = torchattacks.PGD(net, eps=eps, alpha=eps / 4, steps=20)
    return {
        BARE: lambda: bare(x, y),
        "advdpnp.attack": lambda: advdpnp.attack(net, x, y, "pgd-20", eps=eps),
        "advdpnp.evaluate, sanity=False": lambda: advdpnp.evaluate(net, x, y, attacks="pgd-20", eps=eps, sanity=False),
        "advdpnp.evaluate": lambda: advdpnp.evaluate(net, x, y, attacks="pgd-20", eps=eps),
    }


def _nets(samples: int) -> Iterator[tuple[str, nn.Module, Tensor, Tensor, float]]:
    """Name, net, images, labels and eps."""
    digits = load_dataset("digits")
    x, y = to_float(digits.test.images[:samples]), digits.test.labels[:samples]
    for channels in (16, 32):
        net = _taught(channels, to_float(digits.train.images), digits.train.labels)
        yield f"two convolutions, {channels} and {2 * channels} channels", net, x, y, 0.1
    cifar10 = load_dataset("cifar10", train=False)
    x, y = to_float(cifar10.test.images[:samples]), cifar10.test.labels[:samples]
    net = load_model(str(CHECKPOINTS / f"{RESNET}.safetensors"), dataset=cifar10).model.eval()
    yield "ResNet-18 of width 16", net, x, y, 8 / 255


def _taught(channels: int, x: Tensor, y: Tensor) -> nn.Module:
    """Two convolutions, each with max-pooling, after two epochs of adversarial training."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(x.shape[1], channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(2 * channels * 64, 10),
    )  # fmt: skip
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(2):
        for rows in torch.randperm(len(x)).split(64):
            x_adv = advdpnp.perturb(net, x[rows], y[rows], "pgd-5", eps=0.1)
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x_adv), y[rows]).backward()
            optimiser.step()
    return net.eval()


if __name__ == "__main__":
    timing.run_script(main)
