"""Random crop and mirror image.

This is the standard augmentation (He et al. 2016, section 4.2): pad 4 pixels on each side, crop to the original size at
a random position, mirror half of the images. The padding is zero (black), as in the code of the papers that this
project compares with. 4 pixels suit images of 28 to 40 pixels.
"""

import torch
from torch import Tensor

from advdpnp.training.augment.operations import take

PADDING = 4


def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to 4 pixels along both axes and fill with black."""
    return _shift(images, generator, mirror=False)


def crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """``crop``, then mirror each image left to right with probability 1/2."""
    return _shift(images, generator, mirror=True)


def _shift(images: Tensor, generator: torch.Generator, *, mirror: bool) -> Tensor:
    n, _, h, w = images.shape
    device = images.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (n, 1), generator=generator, device=generator.device).to(device)

    rows = draw(2 * PADDING + 1) - PADDING + torch.arange(h, device=device)
    columns = draw(2 * PADDING + 1) - PADDING + torch.arange(w, device=device)
    if mirror:
        columns = torch.where(draw(2).bool(), columns.flip(1), columns)
    return take(images, rows[:, :, None], columns[:, None])
