"""Validation after each epoch: clean and robust accuracy, and measures of gradient masking."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advdpnp.attacks.algorithms.pgd import PGD, perturb
from advdpnp.attacks.losses import LOSSES
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import Draw, seed_of
from advdpnp.base.statistics import mcnemar
from advdpnp.datasets.base import Split, to_float

_BATCH = 500


@dataclass(frozen=True)
class Validation:
    """Accuracies on the validation images, as shares in [0, 1].

    Attributes:
        clean: accuracy on clean images.
        pgd: accuracy under PGD on cross-entropy.
        pgd_margin: accuracy under PGD on the margin, which does not use the softmax.
        gap_p: p-value of the exact McNemar test that the two attacks are equally strong.
        zero_gradient: share of images whose cross-entropy has a gradient of exactly zero.
    """

    clean: float
    pgd: float
    pgd_margin: float
    gap_p: float
    zero_gradient: float

    @property
    def worst(self) -> float:
        """The lower of the two robust accuracies, which a saturated softmax cannot increase."""
        return min(self.pgd, self.pgd_margin)


def validate(network: nn.Module, split: Split, threat: ThreatModel, steps: int, seed: int) -> Validation:
    """Measure the accuracies of a network in eval mode.

    Args:
        split: uint8 images on the device of the network.
        steps: number of PGD steps.
        seed: determines the random starts of PGD.

    Raises:
        AdvdpnpError: the logits are not finite.
    """
    network.eval()
    attacks = {name: PGD(threat, steps=steps, objective=name) for name in ("ce", "margin")}
    right: dict[str, list[Tensor]] = {"clean": [], "ce": [], "margin": []}
    silent = []
    for start in range(0, len(split), _BATCH):
        x = to_float(split.images[start : start + _BATCH])
        y = split.labels[start : start + _BATCH]
        draw = Draw.of(seed_of(seed, "validation"), torch.arange(start, start + len(x), device=x.device))
        logits, gradient = _cross_entropy_gradient(network, x, y)
        if not bool(logits.isfinite().all()):
            raise AdvdpnpError(
                "training has diverged: the logits of validation images are no longer finite; lower optimiser.lr or "
                "set optimiser.clip=1"
            )
        clean = logits.argmax(1) == y
        right["clean"].append(clean)
        silent.append((gradient == 0).flatten(1).all(1))
        for name, attack in attacks.items():
            with torch.no_grad():
                right[name].append(clean & (network(perturb(network, x, y, attack, draw)).argmax(1) == y))
    held = {name: torch.cat(parts) for name, parts in right.items()}
    only_ce, only_margin = (held["ce"] & ~held["margin"]).sum(), (held["margin"] & ~held["ce"]).sum()
    return Validation(
        clean=float(held["clean"].double().mean()),
        pgd=float(held["ce"].double().mean()),
        pgd_margin=float(held["margin"].double().mean()),
        gap_p=mcnemar(int(only_ce), int(only_margin)),
        zero_gradient=float(torch.cat(silent).double().mean()),
    )


def _cross_entropy_gradient(network: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.requires_grad_()
        logits = network(x)
        (gradient,) = torch.autograd.grad(LOSSES["ce"](logits, y).sum(), x)
    return logits.detach(), gradient
