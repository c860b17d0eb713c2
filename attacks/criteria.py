"""What counts as a success: an image that is misclassified, or one that is taken for a target class.

Every row of a search has one class, its goal. Untargeted attacks make the model leave it: it is the label. Targeted
attacks make the model predict it. The engine and the losses ask the criterion and never compare with the label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import Draw, seed_of

TARGETS = ("least-likely", "random", "next")
"""Rules that choose a target for every image; see ``Targeted``."""


class Criterion(Protocol):
    """What counts as a success.

    Attributes:
        targets: the rule that chooses targets; "" for an untargeted criterion.
    """

    @property
    def targets(self) -> str: ...

    def goal(self, logits: Tensor, y: Tensor, sample: Tensor, seed: int) -> Tensor:
        """The class of each row, int64 (n,), that an attack leaves or reaches.

        Args:
            logits: logits of the clean images, (n, classes).
            y: labels, int64 (n,).
            sample: indices of the samples in the data set, int64 (n,).
            seed: seed of the evaluation.
        """
        ...

    def met(self, prediction: Tensor, goal: Tensor) -> Tensor:
        """Whether each prediction, int64 (n,), is a success, bool (n,)."""
        ...

    def keeps(self, votes: Tensor, runs: int) -> Tensor:
        """Whether the goal counts as predicted with so many ``votes``, (n,), of ``runs``, bool (n,)."""
        ...

    def ascent(self, loss: Tensor) -> Tensor:
        """What an attack maximises, (n,), of a loss that grows as the model turns away from the goal."""
        ...

    def definition(self) -> dict[str, Any]:
        """The keys that it adds to the definition of an attack, as JSON."""
        ...


@dataclass(frozen=True)
class Misclassified:
    """Success: the prediction differs from the label. The default; it adds nothing to a definition."""

    targets: ClassVar[str] = ""

    def goal(self, logits: Tensor, y: Tensor, sample: Tensor, seed: int) -> Tensor:
        return y

    def met(self, prediction: Tensor, goal: Tensor) -> Tensor:
        return prediction != goal

    def keeps(self, votes: Tensor, runs: int) -> Tensor:
        return votes * 2 >= runs

    def ascent(self, loss: Tensor) -> Tensor:
        return loss

    def definition(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Targeted:
    """Success: the prediction is the target (Kurakin et al. 2017; Carlini and Wagner 2017, section III).

    Attributes:
        targets: "least-likely" (the smallest logit of the clean image), "random" (uniform over the other classes, the
            same for every attack), "next" (the class after the label) or "labels".
        labels: with "labels", the target of each sample by its index.

    Raises:
        AdvdpnpError: on construction, if there is no such rule.
    """

    targets: str
    labels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.targets not in (*TARGETS, "labels"):
            raise AdvdpnpError(f"there are no targets called '{self.targets}'; choose {', '.join(TARGETS)}")

    @classmethod
    def of(cls, labels: Sequence[int]) -> "Targeted":
        """The targets themselves, one for each sample."""
        return cls("labels", tuple(labels))

    def goal(self, logits: Tensor, y: Tensor, sample: Tensor, seed: int) -> Tensor:
        classes = logits.shape[1]
        if self.targets == "least-likely":
            return logits.scatter(1, y[:, None], torch.inf).argmin(1)
        if self.targets == "next":
            return (y + 1) % classes
        if self.targets == "random":
            return (y + 1 + Draw.of(seed_of(seed, "targets"), sample).integers((), classes - 1, 0)) % classes
        labels = torch.tensor(self.labels, device=y.device)
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise AdvdpnpError(f"the targets must be classes of the model, which has {classes} (counted from 0)")
        return labels[sample]

    def met(self, prediction: Tensor, goal: Tensor) -> Tensor:
        return prediction == goal

    def keeps(self, votes: Tensor, runs: int) -> Tensor:
        return votes * 2 > runs

    def ascent(self, loss: Tensor) -> Tensor:
        return -loss

    def definition(self) -> dict[str, Any]:
        return {"targets": list(self.labels) if self.targets == "labels" else self.targets}


MISCLASSIFIED = Misclassified()


def criterion_of(attack: Any) -> Criterion:
    """The attribute ``criterion`` of an attack; misclassification if it has none."""
    found: Criterion = getattr(attack, "criterion", MISCLASSIFIED)
    return found


def likely_targets(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The ``count`` classes with the largest clean logits, without the label, largest first, int64 (n, count).

    AutoAttack uses these targets (Croce and Hein 2020, section 4). There are at most classes - 1 of them.
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    ranked: Tensor = others.sort(dim=1, descending=True, stable=True).indices
    return ranked[:, :count]


def target_of(targets: Tensor, run: Tensor) -> Tensor:
    """Target class of each row in its current run, int64 (n,); ``targets`` is (n, runs) and ``run`` (n,)."""
    return targets.gather(1, run.clamp(max=targets.shape[1] - 1)[:, None])[:, 0]
