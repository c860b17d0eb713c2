"""What is wrong with the networks of a run: masked gradients, collapse and divergence, each said once a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from advdpnp.models.network import Network
from advdpnp.training.methods.base import Method

# Percentage points between PGD on cross-entropy and PGD on the margin. Sound runs of mart on CIFAR-10 have up to 5.5
# (results/cifar10/training).
LARGEST_GAP = 7.5
LARGEST_SILENT_SHARE = 0.05  # share of images whose cross-entropy has no gradient
SIGNIFICANT = 0.01
COLLAPSE = 5.0  # degrees of MinSep
LARGEST_LOSS = 100.0  # mean of an epoch; sound runs of all methods on CIFAR-10 stay below 4

_SENTENCES = {
    "gap": "accuracy is {:.1f} points lower under PGD on the margin than under PGD on cross-entropy{}: the softmax "
    "masks the gradient",
    "zero-gradient": "{:.0f} % of the validation images have a cross-entropy gradient of zero{}, which disables "
    "gradient attacks",
    "collapse": "the smallest angle between two classes is {:.1f} degrees{}: classes collapse",
    "divergence": "the loss is {:,.0f}{}: training diverges",
}


def problems(row: Mapping[str, Any]) -> dict[str, float]:
    """The problems of the network of one epoch, and how large each is; of a collapse, how small MinSep is.

    Args:
        row: metrics of the epoch, as in ``metrics.csv``.
    """
    found = {}
    gap = 100 * (row["validation_pgd"] - row["validation_pgd_margin"])
    if gap > LARGEST_GAP and row["gap_p"] < SIGNIFICANT:
        found["gap"] = gap
    if row["zero_gradient"] > LARGEST_SILENT_SHARE:
        found["zero-gradient"] = 100 * row["zero_gradient"]
    if row["min_separation"] < COLLAPSE:
        found["collapse"] = row["min_separation"]
    if row.get("loss", 0.0) > LARGEST_LOSS:
        found["divergence"] = row["loss"]
    return found


def warnings(
    metrics: Sequence[Mapping[str, Any]], remedies: Mapping[str, str], *, best: int | None = None
) -> list[str]:
    """A sentence for each problem of the last or the best network of a run, with its first and its worst epoch.

    Problems that pass, as in the first epochs of TRADES, harm no network that is kept, and are not told.

    Args:
        metrics: one row per finished epoch.
        best: number of the epoch that is saved as ``best``.
        remedies: what to do about each problem (see ``remedies``); others are not told.
    """
    found = []
    for name, sentence in _SENTENCES.items():
        sizes = {row["epoch"]: problems(row)[name] for row in metrics if name in problems(row)}
        if name in remedies and metrics and sizes.keys() & {metrics[-1]["epoch"], best}:
            worst = (min if name == "collapse" else max)(sizes, key=lambda epoch: sizes[epoch])
            place = f" (epoch {worst}, the worst; first in epoch {min(sizes)}; {len(sizes)} of {len(metrics)} epochs)"
            found.append(f"{sentence.format(sizes[worst], place)}; {remedies[name]}")
    return found


def remedies(method: Method, network: Network) -> dict[str, str]:
    """What helps this run against each problem; nothing that it does already or cannot do.

    There is none against masked gradients for a method that trains on clean images alone: no attack of its training is
    misled, and an evaluation flags what it finds.
    """
    apart = "raise method.lambda_class_neg or " if hasattr(method, "lambda_class_neg") else ""
    found = {"collapse": f"{apart}lower optimiser.lr", "divergence": "lower optimiser.lr or set optimiser.clip=1"}
    if not method.adversarial:
        return found
    ways = ["method.inner_objective=margin"] if method.inner_objective != "margin" else []
    if network.config.head == "prototype":
        ways.append("a smaller model.radius or a larger model.temperature")
    else:
        ways.append("method.label_smoothing=0.1")
    masked = f"use {' or '.join(ways)}"
    return {"gap": masked, "zero-gradient": masked, **found}
