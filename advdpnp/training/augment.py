"""Augmentation of whole batches on their device; every sample gets its own random crop and flip.

This is the standard augmentation (He et al. 2016, section 4.2): pad 4 pixels on each side, crop to the original size at
a random position, mirror half of the images. The padding is zero (black), as in the code of the papers that this
project compares with. 4 pixels suit images of 28 to 40 pixels.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from advdpnp.base.errors import AdvdpnpError

PADDING = 4


def crop(images: Tensor, draw_generator: torch.Generator) -> Tensor:
    """Shift each image by up to 4 pixels along both axes and fill with black."""
    return _gather(images, draw_generator, mirror=False)


def crop_flip(images: Tensor, draw_generator: torch.Generator) -> Tensor:
    """``crop``, then mirror each image left to right with probability 1/2."""
    return _gather(images, draw_generator, mirror=True)


def unchanged(images: Tensor, draw_generator: torch.Generator) -> Tensor:
    """Return the images unchanged."""
    return images


AUGMENTATIONS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": unchanged,
    "crop": crop,
    "crop-flip": crop_flip,
}


def augment(images: Tensor, how: str, draw_generator: torch.Generator) -> Tensor:
    """Augment every image of a batch independently.

    Args:
        images: (n, c, h, w), uint8 or float.
        how: a key of ``AUGMENTATIONS``.
        draw_generator: the only source of randomness. It may be on another device than the images, so a generator on
            the CPU gives the same crops on every device.

    Returns:
        New images of the same shape, type and device ("none" returns the images themselves).

    Raises:
        AdvdpnpError: there is no such augmentation.
    """
    if how not in AUGMENTATIONS:
        raise AdvdpnpError(f"there is no augmentation called '{how}'; choose one of {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[how](images, draw_generator)


def _gather(images: Tensor, generator: torch.Generator, *, mirror: bool) -> Tensor:
    """Crop and mirror at once, by gathering every output pixel from the flattened padded image."""
    n, c, h, w = images.shape
    device = images.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (n, 1), generator=generator, device=generator.device).to(device)

    rows = draw(2 * PADDING + 1) + torch.arange(h, device=device)
    columns = draw(2 * PADDING + 1) + torch.arange(w, device=device)
    if mirror:
        columns = torch.where(draw(2).bool(), columns.flip(1), columns)
    position = rows[:, :, None] * (w + 2 * PADDING) + columns[:, None, :]
    padded = pad(images, (PADDING,) * 4).flatten(2)
    return padded.gather(2, position.reshape(n, 1, h * w).expand(n, c, h * w)).reshape(n, c, h, w)
