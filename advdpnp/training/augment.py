"""Augmentation of whole batches on their own device: every sample draws its own crop and flip, without a Python loop.

The recipe is the field's (He et al. 2016, section 4.2): pad 4 pixels on each side, cut out the original size at a
random place, mirror half of the images. Padding is black (zeros), as in the code of the papers we compare with;
reflection would give other numbers than theirs. 4 pixels are meant for images of 28 to 40 pixels.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from advdpnp.base.errors import AdvdpnpError

PADDING = 4


def crop(images: Tensor, draw_generator: torch.Generator) -> Tensor:
    """Move each image by up to 4 pixels in both directions; what comes in from outside is black."""
    return _gather(images, draw_generator, mirror=False)


def crop_flip(images: Tensor, draw_generator: torch.Generator) -> Tensor:
    """``crop``, then mirror each image left to right with probability 1/2."""
    return _gather(images, draw_generator, mirror=True)


def unchanged(images: Tensor, draw_generator: torch.Generator) -> Tensor:
    """The images as they are."""
    return images


AUGMENTATIONS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": unchanged,
    "crop": crop,
    "crop-flip": crop_flip,
}


def augment(images: Tensor, how: str, draw_generator: torch.Generator) -> Tensor:
    """Augment each image of a batch on its own.

    Args:
        images: (n, c, h, w), uint8 or float.
        how: a key of ``AUGMENTATIONS``.
        draw_generator: the only source of randomness. On another device than the images it works too (the draws are
            moved), so a generator on the CPU gives the same crops for every device.

    Returns:
        new images of the same shape, type and device ("none": the images themselves).

    Raises:
        AdvdpnpError: there is no such augmentation.
    """
    if how not in AUGMENTATIONS:
        raise AdvdpnpError(f"there is no augmentation called '{how}'; choose one of {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[how](images, draw_generator)


def _gather(images: Tensor, generator: torch.Generator, *, mirror: bool) -> Tensor:
    """Crop and mirror in one go: every output pixel is looked up in the padded image, flattened to one dimension."""
    n, c, h, w = images.shape
    device = images.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (n, 1), generator=generator, device=generator.device).to(device)

    rows = draw(2 * PADDING + 1) + torch.arange(h, device=device)
    columns = draw(2 * PADDING + 1) + torch.arange(w, device=device)
    if mirror:
        columns = torch.where(draw(2).bool(), columns.flip(1), columns)
    place = rows[:, :, None] * (w + 2 * PADDING) + columns[:, None, :]
    padded = pad(images, (PADDING,) * 4).flatten(2)
    return padded.gather(2, place.reshape(n, 1, h * w).expand(n, c, h * w)).reshape(n, c, h, w)
