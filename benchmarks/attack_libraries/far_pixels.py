"""How near minimum-norm attacks come on images whose pixels are all 0 or 1, and what that costs.

    python -m benchmarks.attack_libraries.far_pixels --out results/benchmarks

In tanh space such a pixel has no slope to begin with, and far to go. The textbook's way are 9 constants with 1,000
Adam steps of .01 each, here in foolbox's code: as it comes, where it gives a constant up once the sum over the batch
does not fall, and without that. The net learns digits of 8 x 8 pixels cut to 0 and 1.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from torch import Tensor, nn

import advdpnp
from advdpnp.base.compat import import_foolbox
from advdpnp.datasets import load_dataset, to_float
from benchmarks import timing

EPS = 2.0
MODULE = "benchmarks.attack_libraries.far_pixels"

Search = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Of a net, images and labels: adversarial images, or anything that the net gets right where none was found."""


def main(
    samples: Annotated[int, typer.Option(min=1, help="Test images.")] = 100,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of training.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Folder for far-pixels.csv and .md.")] = None,
) -> None:
    """Train the net, and run each attack on it."""
    digits = load_dataset("digits")
    x, y = _cut(digits.test.images[:samples]), digits.test.labels[:samples]
    with timing.threads(1):
        net = _taught(epochs, _cut(digits.train.images), digits.train.labels)
        rows = [{"part": f"{len(x)} digits", **row} for row in measured(net, x, y, searches())]
    last = (
        f"left: percent that are right and have no adversarial image within L2 {EPS:g}. median distance: of the "
        "nearest one, over the images that are right; PGD looks for none. largest change: of any pixel. cpu_s: "
        "processor time."
    )
    facts = timing.circumstances(timing.command_of(MODULE), 1, torch.device("cpu"))
    title = "Minimum-norm attacks on pixels of 0 and 1"
    timing.Report("far-pixels", title, facts, pd.DataFrame(rows), last).publish(out)


def measured(net: nn.Module, x: Tensor, y: Tensor, tried: dict[str, Search]) -> Iterator[timing.Row]:
    """A row for each of ``tried``, judged by the net's answers to what it gives back."""
    right = net(x).argmax(1) == y
    for name, search in tried.items():
        begin = time.process_time()
        x_adv = search(net, x, y)
        seconds = time.process_time() - begin
        changes = (x_adv - x).abs().flatten(1)
        distance = torch.where(net(x_adv).argmax(1) != y, changes.norm(dim=1), torch.inf)[right]
        left = 100 * float((distance > EPS).sum()) / len(x)
        median = float("nan") if name.startswith("pgd") else float(distance.median())
        yield {
            "attack": name, "left": left, "median distance": median, "largest change": float(changes.max()),
            "cpu_s": seconds,
        }  # fmt: skip


def searches(steps: int = 1000) -> dict[str, Search]:
    """Ours, PGD-40 within ``EPS``, and foolbox's of so many steps for each constant."""
    far = 8.0  # no image of 64 pixels is farther from another

    def ours(name: str, eps: float) -> Search:
        return lambda net, x, y: advdpnp.attack(net, x, y, name, norm="l2", eps=eps).x_adv

    def textbook(gives_up: bool) -> Search:
        package = import_foolbox()
        attack = package.attacks.L2CarliniWagnerAttack(steps=steps, abort_early=gives_up)

        def search(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            found: Tensor = attack(package.PyTorchModel(net, bounds=(0, 1)), x, y, epsilons=None)[0]
            return found

        return search

    return {
        "pgd-40": ours("pgd-40", EPS),
        "cw-l2": ours("cw-l2", far),
        f"textbook, {steps} steps": textbook(False),
        f"textbook, {steps} steps, gives up": textbook(True),
    }


def _cut(images: Tensor) -> Tensor:
    return (nn.functional.avg_pool2d(to_float(images), 4) > 0.5).float()


def _taught(epochs: int, x: Tensor, y: Tensor) -> nn.Module:
    """Two convolutions."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
    return net.eval()


if __name__ == "__main__":
    timing.run_script(main)
