"""Augmentation of whole batches on their device, one module per kind; every image gets its own random numbers.

Code here takes and returns uint8 or float images and labels. It must not know data sets, recipes or networks, and all
of its randomness comes from the generator that it is given, so a resumed run sees the same images.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from advdpnp.base.errors import AdvdpnpError
from advdpnp.training.augment.autoaugment import autoaugment
from advdpnp.training.augment.crop import crop, crop_flip
from advdpnp.training.augment.cutmix import cutmix
from advdpnp.training.augment.idbh import idbh

__all__ = ["AUGMENTATIONS", "augment"]

Augmentation = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


def _of_images(change: Callable[[Tensor, torch.Generator], Tensor]) -> Augmentation:
    """An augmentation that keeps the labels."""
    return lambda images, y, generator: (change(images, generator), y)


AUGMENTATIONS: Mapping[str, Augmentation] = {
    "none": lambda images, y, generator: (images, y),
    "crop": _of_images(crop),
    "crop-flip": _of_images(crop_flip),
    "autoaugment": _of_images(autoaugment),
    "idbh": _of_images(idbh),
    "cutmix": cutmix,
}


def augment(images: Tensor, y: Tensor, how: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augment every image of a batch independently.

    Args:
        images: (n, c, h, w), uint8 or float in [0, 1].
        y: labels (n,), int64.
        how: a key of ``AUGMENTATIONS``.
        generator: the only source of randomness. It may be on another device than the images, so a generator on the
            CPU makes the same choices for every device.

    Returns:
        New images and labels of the same shapes, types and device ("none" returns the arguments themselves).

    Raises:
        AdvdpnpError: there is no such augmentation.
    """
    if how not in AUGMENTATIONS:
        raise AdvdpnpError(f"there is no augmentation called '{how}'; choose one of {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[how](images, y, generator)
