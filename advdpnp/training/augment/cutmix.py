"""CutMix: a box of another image is pasted into each image, on top of crop and mirror image.

Papers: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019;
for adversarial training Rebuffi et al., "Data Augmentation Can Improve Robustness", NeurIPS 2021, who find it useful
together with averaged weights.
"""

import torch
from torch import Tensor

from advdpnp.training.augment.crop import crop_flip
from advdpnp.training.augment.operations import in_box, uniform

_SHARE = 0.5  # of the images get a box, as in the code of Yun et al. for CIFAR


def cutmix(images: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paste a box of a random other image of the batch into half of the images.

    The area of the box is uniform (the paper's Beta(1, 1)) before it is cut at the border of the image. Its centre is
    uniform too. The papers mix the losses of both labels in proportion to the areas. Here the label is drawn: it is the
    other image's with the probability that equals the share of the box. So the expected loss of an image is the mixed
    loss, and every method works with labels as they are. The training attack sees the drawn label alone.
    """
    images = crop_flip(images, generator)
    n, _, h, w = images.shape
    decides, area, down, right, label = uniform(n, 5, generator).to(images.device).unbind()
    other = torch.randperm(n, generator=generator, device=generator.device).to(images.device)
    side = torch.where(decides < _SHARE, area, 0).sqrt()
    ends = []
    for length, centre in ((h, down * h), (w, right * w)):
        first = (centre - side * length / 2).round().clamp(0, length).long()
        ends += [first, (centre + side * length / 2).round().clamp(0, length).long() - first]
    top, height, left, width = ends
    box = in_box(top, left, height, width, (h, w))
    share = (height * width) / (h * w)
    return torch.where(box[:, None], images[other], images), torch.where(label < share, y[other], y)
