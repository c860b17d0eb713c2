"""AutoAugment: the policy for CIFAR-10, on top of crop and mirror image.

Paper: Cubuk et al., "AutoAugment: Learning Augmentation Policies from Data", CVPR 2019, table 7. Cutout, which follows
the policy in the paper, is left out. Operations and magnitudes are those of torchvision's AutoAugment, whose blending
operations draw the sign of their magnitude.
"""

import torch
from torch import Tensor

from advdpnp.training.augment import operations as op
from advdpnp.training.augment.crop import crop_flip

_Step = tuple[op.Operation, float, int]

# Two steps each: the operation, its probability, its magnitude from 0 to 9.
POLICY: tuple[tuple[_Step, _Step], ...] = (
    ((op.invert, 0.1, 0), (op.contrast, 0.2, 6)),
    ((op.rotate, 0.7, 2), (op.translate_x, 0.3, 9)),
    ((op.sharpness, 0.8, 1), (op.sharpness, 0.9, 3)),
    ((op.shear_y_from_corner, 0.5, 8), (op.translate_y, 0.7, 9)),
    ((op.autocontrast, 0.5, 0), (op.equalize, 0.9, 0)),
    ((op.shear_y_from_corner, 0.2, 7), (op.posterize, 0.3, 7)),
    ((op.colour, 0.4, 3), (op.brightness, 0.6, 7)),
    ((op.sharpness, 0.3, 9), (op.brightness, 0.7, 9)),
    ((op.equalize, 0.6, 0), (op.equalize, 0.5, 0)),
    ((op.contrast, 0.6, 7), (op.sharpness, 0.6, 5)),
    ((op.colour, 0.7, 7), (op.translate_x, 0.5, 8)),
    ((op.equalize, 0.3, 0), (op.autocontrast, 0.4, 0)),
    ((op.translate_y, 0.4, 3), (op.sharpness, 0.2, 6)),
    ((op.brightness, 0.9, 6), (op.colour, 0.2, 8)),
    ((op.solarize, 0.5, 2), (op.invert, 0.0, 0)),
    ((op.equalize, 0.2, 0), (op.autocontrast, 0.6, 0)),
    ((op.equalize, 0.2, 0), (op.equalize, 0.6, 0)),
    ((op.colour, 0.9, 9), (op.equalize, 0.6, 0)),
    ((op.autocontrast, 0.8, 0), (op.solarize, 0.2, 8)),
    ((op.brightness, 0.1, 3), (op.colour, 0.7, 0)),
    ((op.solarize, 0.4, 5), (op.autocontrast, 0.9, 0)),
    ((op.translate_y, 0.9, 9), (op.translate_y, 0.7, 9)),
    ((op.autocontrast, 0.9, 0), (op.solarize, 0.8, 3)),
    ((op.equalize, 0.8, 0), (op.invert, 0.1, 0)),
    ((op.translate_y, 0.7, 9), (op.autocontrast, 0.9, 0)),
)

# The strength at magnitudes 0 and 9, without a sign, and what the signed strength is added to.
_UNSIGNED: dict[op.Operation, tuple[float, float]] = {op.posterize: (8, 4), op.solarize: (255, 0)}
_SIGNED: dict[op.Operation, tuple[float, float]] = {
    op.shear_y_from_corner: (0.3, 0),
    op.translate_x: (150 / 331, 0),
    op.translate_y: (150 / 331, 0),
    op.rotate: (30, 0),
    **dict.fromkeys((op.brightness, op.colour, op.contrast, op.sharpness), (0.9, 1)),
}
_OPERATIONS = tuple(dict.fromkeys(step[0] for steps in POLICY for step in steps))


def strength(operation: op.Operation, magnitude: int) -> tuple[float, float]:
    """The strength of an operation as (b, s): it is b + s or b - s, with probability 1/2 each."""
    if operation in _SIGNED:
        largest, base = _SIGNED[operation]
        return base, largest * magnitude / 9
    first, last = _UNSIGNED.get(operation, (0, 0))
    value = first + (last - first) * magnitude / 9
    return round(value) if operation is op.posterize else value, 0


_NUMBERS = torch.tensor([[(_OPERATIONS.index(f), p, *strength(f, m)) for f, p, m in steps] for steps in POLICY])


def autoaugment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crop and mirror each image, then apply to it the two steps of one of the 25 sub-policies."""
    images = crop_flip(images, generator)
    policy, *draws = op.uniform(len(images), 5, generator).cpu().unbind()
    numbers = _NUMBERS[(policy * len(POLICY)).long()]
    for step, (decides, sign) in enumerate((draws[:2], draws[2:])):
        choice, probability, base, size = numbers[:, step].unbind(1)
        choice = torch.where(decides < probability, choice, -1)
        strengths = torch.where(sign < 0.5, base - size, base + size)
        images = op.apply(images, _OPERATIONS, choice.long(), strengths)
    return images
