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
    """Add the terms of one step. Nothing is copied to the host, so nothing waits for the device.

    One value that is not finite spoils every term a step later; the term with the fewest finite values is the first.
    """
    for name, value in terms.items():
        now = torch.stack([value.detach().float(), value.detach().isfinite().float()])
        sums[name] = sums[name] + now if name in sums else now


def mean_terms(sums: Sums, steps: int, place: str) -> dict[str, float]:
    """Mean of each term over ``steps`` steps.

    Args:
        place: where the run stands and what is saved, for the message.

    Raises:
        AdvdpnpError: a term is not finite; nothing is saved then, so the last good state is kept.
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
    """Over all processes the mean of the sums and the smallest number of finite values."""
    if fabric.world_size == 1:
        return sums
    gathered = {name: torch.as_tensor(fabric.all_gather(total)) for name, total in sums.items()}
    return {name: torch.stack([each[:, 0].mean(), each[:, 1].min()]) for name, each in gathered.items()}


def require_finite_weights(networks: Iterable[nn.Module], place: str) -> None:
    """The loss of a step is computed before the weights change; what the last step did to them shows here.

    Raises:
        AdvdpnpError: a weight or statistic is not finite; nothing is saved then, so the last good state is kept.
    """
    for name, value in (item for network in networks for item in network.state_dict().items()):
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise AdvdpnpError(
                f"the weights '{name}' are no longer finite in {place}; lower optimiser.lr or set optimiser.clip=1"
            )
