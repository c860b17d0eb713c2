"""The ways of training that are compared: ours, the plain public one, and the pieces of both alone.

The public way is adversarial training as anybody writes it with torchattacks (the call of its README, its defaults of
alpha 2/255 and 10 steps) and torchvision's transforms, from the same weights and with the same SGD.
"""

import copy
import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.compat import import_torchattacks
from advdpnp.base.statistics import wilson
from advdpnp.datasets.base import Dataset, Split, to_float
from advdpnp.models.network import Network
from advdpnp.training.augment import augment
from advdpnp.training.recipe import Recipe
from advdpnp.training.schedule import SCHEDULES
from advdpnp.training.trainer import Hardware
from advdpnp.training.training_run import TrainingRun
from advdpnp.training.validation import validate
from benchmarks.timing import Row, Work

EPS, ALPHA, STEPS = 8 / 255, 2 / 255, 10  # torchattacks.PGD's own defaults, and the field's threat model
_JUDGED = 20  # steps of the PGD that judges quality


class OurWay:
    """The steps of a recipe, one per call, for as long as they are wanted; validation and saving are left out."""

    def __init__(self, recipe: Recipe, dataset: Dataset, device: str, *, compiled: bool = False) -> None:
        fabric = Hardware(device).fabric(recipe.precision)
        fabric.launch()
        self.run = TrainingRun(recipe, dataset, None, Path(), fabric, compiled=compiled)
        self._steps = self.run.steps_of_epoch()

    def __call__(self) -> None:
        if self.run.step == self.run.batches.steps:
            self.run.epoch, self.run.step = self.run.epoch + 1, 0
            self._steps = self.run.steps_of_epoch()
        next(self._steps)


def compiled_way(recipe: Recipe, dataset: Dataset, device: str) -> tuple[OurWay | None, str]:
    """Ours with torch.compile after its first step, and how long that took; or why there is none."""
    started = time.perf_counter()
    try:
        way = OurWay(recipe, dataset, device, compiled=True)
        way()
    except Exception as error:  # whatever a missing or broken compiler makes torch raise
        return None, f"does not compile here: {str(error).strip().splitlines()[0]}"
    return way, f"first step with compilation: {time.perf_counter() - started:.0f} s"


def our_data(split: Split, batch: int, device: torch.device) -> Work:
    """What our step does before its attack: pick, crop, flip, convert."""
    split, generator = split.to(device), torch.Generator(device).manual_seed(0)
    order = torch.randperm(len(split)).to(device)[:batch]

    def work() -> None:
        picked = split.pick(order)
        images, _ = augment(picked.images, picked.labels, "crop-flip", generator)
        to_float(images).contiguous(memory_format=torch.channels_last)

    return work


class _Given(nn.Module):
    """A backbone that costs nothing: it returns the same features for whatever image, and they take a gradient."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.width = dim
        self.given = nn.Parameter(torch.randn(count, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.given


def loss_alone(run: TrainingRun, classes: int, dim: int) -> Work:
    """Forward and backward of a method's loss on features that are given."""
    count, device = run.batches.size, run.fabric.device
    network = Network(replace(run.network.config, feature_dim=None), _Given(count, dim)).to(device)
    x = torch.zeros(1, run.dataset.channels, 1, 1, device=device)
    y = torch.randint(classes, (count,), device=device)

    def work() -> None:
        network.zero_grad(set_to_none=True)
        loss, _ = run.method.loss(network, x, None, y)
        loss.backward()  # type: ignore[no-untyped-call]

    return work


class PublicWay:
    """Adversarial training with torchattacks, from a copy of these weights and with this recipe's SGD."""

    def __init__(self, start: Network, recipe: Recipe, *, channels_last: bool = False) -> None:
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = copy.deepcopy(start).to(memory_format=self.layout)
        self.device = next(self.model.parameters()).device
        self.recipe = recipe
        self.attack = import_torchattacks().PGD(self.model, eps=EPS, alpha=ALPHA, steps=STEPS)
        values = recipe.optimiser
        self.optimiser = torch.optim.SGD(
            self.model.parameters(), values.lr, values.momentum, 0, values.weight_decay, values.nesterov
        )

    def train(self, split: Split) -> None:
        """All epochs of the recipe, with its schedule."""
        batches = loader(split, self.recipe.batch_size, 0, self.device)
        factor, total = SCHEDULES[self.recipe.optimiser.schedule], max(1, len(batches) * self.recipe.epochs)
        schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: factor(min(step / total, 1.0)))
        for _ in range(self.recipe.epochs):
            self.epoch(batches, schedule.step)

    def epoch(self, batches: DataLoader[Any], after: Work = lambda: None) -> None:
        """One step per batch; ``after`` is called after each."""
        for x, y in batches:
            self.step(x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True))
            after()

    def at_hand(self, split: Split, size: int) -> Work:
        """Steps on float images that already lie on the device."""
        split = split.to(self.device)
        images = to_float(split.images).contiguous(memory_format=self.layout)
        batches = itertools.cycle([*zip(torch.split(images, size), torch.split(split.labels, size), strict=True)])
        return lambda: self.step(*next(batches))

    def step(self, x: Tensor, y: Tensor) -> None:
        """One step on images (n, c, h, w) in [0, 1] and labels (n,)."""
        x_adv = self.attack(x, y)
        self.model.train()
        loss = F.cross_entropy(self.model(x_adv), y)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()


class ImageFiles(torch.utils.data.Dataset[Any]):
    """Images one by one through PIL and transforms, as ``torchvision.datasets.CIFAR10`` gives them."""

    def __init__(self, split: Split) -> None:
        images = split.images.cpu()
        self.data, self.labels = images.permute(0, 2, 3, 1).contiguous().numpy(), split.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(images.shape[2:], padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        pixels = self.data[index]
        return self.transform(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)), self.labels[index]


def loader(split: Split, batch: int, workers: int, device: torch.device) -> DataLoader[Any]:
    """The public way's batches."""
    return DataLoader(
        ImageFiles(split),
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )


def drain(batches: DataLoader[Any]) -> None:
    """Load everything and train on nothing."""
    for _ in batches:
        pass


def judge(network: nn.Module, split: Split) -> Row:
    """Percent of images that are right, and that stay right under attack, the latter with its interval."""
    split = split.to(next(network.parameters()).device)
    found = validate(network, split, ThreatModel.parse("linf", "8/255"), _JUDGED, 0)
    interval = wilson(round(found.pgd * len(split)), len(split))
    robust = {"pgd_20": found.pgd, "pgd_20_lowest": interval.low, "pgd_20_highest": interval.high}
    return {name: 100 * share for name, share in {"clean": found.clean, **robust}.items()}
