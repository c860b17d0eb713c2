"""Means of the loss terms over an epoch, and the check that losses and weights are still finite."""

from collections.abc import Iterable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.training.methods.base import Terms

Sums = dict[str, Tensor]
"""For each term a tensor (2,): the sum of its values, and how many of them were finite."""


def add_terms(sums: Sums, terms: Terms) -> None:
    """Add the terms of one step, without copying to the host or waiting for the device.

    A value that is not finite makes all terms of later steps not finite, so the term with the fewest finite values is
    the first one that failed.
    """
    for name, value in terms.items():
        now = torch.stack([value.detach().float(), value.detach().isfinite().float()])
        sums[name] = sums[name] + now if name in sums else now


def mean_terms(sums: Sums, steps: int, place: str) -> dict[str, float]:
    """Mean of each term over ``steps`` steps.

    Args:
        place: the position of the run and the state that is kept, for the message.

    Raises:
        AdvdpnpError: a term is not finite.
    """
    totals = {name: total.tolist() for name, total in sums.items()}
    if any(finite < steps for _, finite in totals.values()):
        first = min(totals, key=lambda name: totals[name][1])
        raise AdvdpnpError(
            f"the loss term '{first}' is no longer finite in {place}; lower optimiser.lr, set optimiser.clip=1 or "
            "lower the weight of the term"
        )
    return {name: total / steps for name, (total, _) in totals.items()}


def sums_over_processes(sums: Sums, fabric: Fabric) -> Sums:
    """The sums averaged over all processes, and the smallest number of finite values in any of them."""
    if fabric.world_size == 1:
        return sums
    gathered = {name: torch.as_tensor(fabric.all_gather(total)) for name, total in sums.items()}
    return {name: torch.stack([totals[:, 0].mean(), totals[:, 1].min()]) for name, totals in gathered.items()}


def require_finite_weights(networks: Iterable[nn.Module], place: str) -> None:
    """Check the weights, because the loss of the last step was computed before its update.

    Raises:
        AdvdpnpError: a weight or statistic is not finite.
    """
    for name, value in (item for network in networks for item in network.state_dict().items()):
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise AdvdpnpError(
                f"the weights '{name}' are no longer finite in {place}; lower optimiser.lr or set optimiser.clip=1"
            )
