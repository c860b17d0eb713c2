"""Trains a recipe on a part of CIFAR-10 and judges it on held-out training images: a quick look at a choice.

    python -m benchmarks.recipe_trial --recipe adv-dpnp --set average=0.99 --set model.temperature=200

The judges are PGD-20 on cross-entropy and on the margin. No test image is touched.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from advdpnp.attacks.threat import ThreatModel
from advdpnp.datasets import load_dataset
from advdpnp.datasets.base import Dataset
from advdpnp.models.loading import load_model
from advdpnp.training.recipe import resolve_recipe
from advdpnp.training.trainer import train
from advdpnp.training.validation import Validation, validate
from benchmarks import timing

SETTINGS = ("epochs=10", "batch_size=128", "attack.steps=5", "validation_steps=5")
JUDGED = (46_000, 47_000)  # places of the training images that judge, beyond all that train
_STEPS, _SEED = 20, 123


def trial(recipe: str, dataset: Dataset, images: int, settings: list[str]) -> Validation:
    """Train on the first ``images`` training images and judge the best epoch on others."""
    resolved = resolve_recipe(recipe, dataset.name, None, [*SETTINGS, *settings])
    judged = dataset.train.pick(torch.arange(*JUDGED))
    with tempfile.TemporaryDirectory() as folder:
        train(resolved, replace(dataset, train=dataset.train.head(images)), Path(folder))
        network = load_model(folder).model
    threat = ThreatModel.parse(resolved.attack.norm, resolved.attack.eps)
    return validate(network, judged, threat, _STEPS, seed=_SEED)


def main(
    recipe: Annotated[str, typer.Option(help="As of advdpnp train.")] = "adv-dpnp",
    settings: Annotated[list[str] | None, typer.Option("--set", help="As of advdpnp train; repeatable.")] = None,
    images: Annotated[int, typer.Option(min=256, max=JUDGED[0], help="Number of training images.")] = 16_000,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
) -> None:
    """Print clean accuracy and accuracy under both attacks, in percent."""
    with timing.threads(threads):
        found = trial(recipe, load_dataset("cifar10"), images, list(settings or []))
    typer.echo(
        f"{recipe} {' '.join(settings or [])}: clean {100 * found.clean:.1f}, PGD-{_STEPS} on cross-entropy "
        f"{100 * found.pgd:.1f}, on the margin {100 * found.pgd_margin:.1f}"
    )


if __name__ == "__main__":
    typer.run(main)
