"""The augmented batches of a training run, and each process's share of them."""

from collections.abc import Callable, Iterator

import torch
from lightning_fabric import Fabric
from torch import Tensor

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import seed_of
from advdpnp.datasets.base import Dataset, to_float
from advdpnp.training.augment import augment
from advdpnp.training.recipe import Recipe

_UNAUGMENTED = 500  # images per batch where nothing depends on its size


class Batches:
    """Batches of training images and, if given, extra images.

    With several processes, each takes its share of every batch. Every process draws the random numbers of the whole
    batch, so the number of processes changes only rounding and the batches that BatchNorm sees.

    Attributes:
        size: images per step, over all processes; ``extra_size`` of them are extra images.
        steps: steps per epoch.
        content_hash: hash of the training, validation and extra images.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, extra: Dataset | None, fabric: Fabric) -> None:
        self.fabric, self.seed = fabric, recipe.seed
        self.augmentation = recipe.augmentation or dataset.augmentation
        self.split = dataset.train.to(fabric.device)
        self.extra_split = None if extra is None else _matching(extra, dataset).train.to(fabric.device)
        if len(self.split) < 2 or not len(dataset.validation):
            raise AdvdpnpError(
                f"{dataset.name} has {len(self.split)} images for training and {len(dataset.validation)} for "
                "validation; give at least 10 training images"
            )
        self.size = min(recipe.batch_size, len(self.split))
        self.extra_size = 0 if extra is None else min(max(round(recipe.extra_share * self.size), 1), self.size - 1)
        self.steps = len(self.split) // (self.size - self.extra_size)
        if self.size % fabric.world_size:
            raise AdvdpnpError(
                f"a batch of {self.size} cannot be split among {fabric.world_size} processes; set batch_size to a "
                f"multiple of {fabric.world_size}"
            )
        hashed = [dataset.train, dataset.validation, *([self.extra_split] if self.extra_split else [])]
        self.content_hash = "-".join(split.content_hash for split in hashed)

    def order(self, epoch: int) -> Callable[[int], Tensor]:
        """A function from the step to the indices of its images; extra images come after the training images."""
        own = self.size - self.extra_size
        generator = torch.Generator().manual_seed(seed_of(self.seed, "order", epoch))
        order = torch.randperm(len(self.split), generator=generator)
        if self.extra_split is None:
            return lambda step: order[step * own : (step + 1) * own].to(self.fabric.device)
        shape, size = (self.steps, self.extra_size), len(self.extra_split)
        extra = torch.randint(size, shape, generator=generator) + len(self.split)
        return lambda step: torch.cat([order[step * own : (step + 1) * own], extra[step]]).to(self.fabric.device)

    def images(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images (n, c, h, w) and labels (n,) with these indices."""
        if self.extra_split is None:
            return self.split.images[index], self.split.labels[index]
        own, count = index < len(self.split), len(self.split)
        parts = self.split.pick(index[own]), self.extra_split.pick(index[~own] - count)
        return torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])

    def unaugmented(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All training images in order, without extra images: float images in [0, 1] and labels, in batches."""
        for start in range(0, len(self.split), _UNAUGMENTED):
            part = slice(start, start + _UNAUGMENTED)
            yield to_float(self.split.images[part]), self.split.labels[part]

    def augmented(self, index: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """This process's share of a batch: float images in [0, 1], labels, indices."""
        images, y = self.images(index)
        generator = torch.Generator(images.device).manual_seed(seed_of(self.seed, "augment", epoch, step))
        # Every world_size-th image, because extra images are at the end of the batch and each process needs some.
        share = slice(self.fabric.global_rank, len(index), self.fabric.world_size)
        images, y = augment(images, y, self.augmentation, generator)
        x = to_float(images[share])
        return x.contiguous(memory_format=torch.channels_last), y[share], index[share]


def _matching(extra: Dataset, dataset: Dataset) -> Dataset:
    """Return ``extra`` if its images and classes match those of ``dataset``.

    Raises:
        AdvdpnpError: the images have another shape or more classes.
    """
    kind, wanted = (extra.channels, *extra.image_size), (dataset.channels, *dataset.image_size)
    if kind != wanted or extra.classes > dataset.classes:
        raise AdvdpnpError(
            f"the extra images of {extra.name} are {'x'.join(map(str, kind))} of {extra.classes} classes, those of "
            f"{dataset.name} {'x'.join(map(str, wanted))} of {dataset.classes}; give both the same shape and classes"
        )
    return extra
