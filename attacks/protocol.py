"""What an attack is: a search per sample that is asked and told, and the rows it keeps.

An attack never sees the model, never loops over steps and never decides what counts. It is asked which images it wants
evaluated, told one iteration later what the model said of them, and keeps everything it needs in a state whose tensors
all hold the samples in dimension 0. So rows of different ages can share a batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from advdpnp.attacks.rows import Batch, Rows
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import Draw
from advdpnp.base.registry import Registry

Loss = Callable[[Tensor], Tensor]
"""Logits (n, classes) to one number per sample (n,), to be maximised by the attacker."""

ATTACKS = Registry("attack", "advdpnp.attacks")
"""Builders ``build(threat: ThreatModel, classes: int, **defaults) -> Attack | PackageAttack``."""


@dataclass(frozen=True)
class State(Rows):
    """What every attack's state holds at least.

    Attributes:
        x: clean images in [0, 1], (n, c, h, w).
        y: labels, int64 (n,).
        done: the search of this row has ended, bool (n,). Its query is then its last image, still to be judged.
        draw: the row's random stream.
    """

    x: Tensor
    y: Tensor
    done: Tensor
    draw: Draw


@runtime_checkable
class Attack(Protocol):
    """A search per sample: a frozen dataclass of hyper-parameters that holds no tensors.

    Attributes:
        name: as users write it ("pgd-20"); also the name of its random streams.
        norms: the norms it can search under.
        minimum_norm: it looks for the nearest adversarial image rather than for any within eps.
    """

    @property
    def name(self) -> str: ...
    @property
    def norms(self) -> tuple[str, ...]: ...
    @property
    def minimum_norm(self) -> bool: ...
    @property
    def threat(self) -> ThreatModel: ...

    def definition(self) -> dict[str, Any]:
        """Everything, other than the threat model and the seed, that determines the search; as JSON."""
        ...

    def start(self, x: Tensor, y: Tensor, logits: Tensor | None, draw: Draw) -> Any:
        """The first state. ``logits`` are those of the clean images, or None in training."""
        ...

    def ask(self, state: Any) -> tuple[Tensor, Loss | None]:
        """Images to evaluate (n, c, h, w), and what to differentiate; None asks for logits alone."""
        ...

    def tell(self, state: Any, logits: Tensor, gradient: Tensor | None, misclassified: Tensor) -> Any:
        """The next state, given logits (n, classes), gradient of the objective (n, c, h, w) and the engine's word.

        Rows that are done may be told again: it must not fail, and what it makes of them is thrown away.
        """
        ...


@runtime_checkable
class PeriodicGradient(Protocol):
    """An attack that wants the gradient of every ``gradient_period``-th query of a row alone, beginning with the first.

    The engine keeps rows in step where it can, and leaves out the backward pass when no row of a chunk wants it.
    """

    @property
    def gradient_period(self) -> int: ...

    def wants_gradient(self, state: Any) -> Tensor:
        """Which rows, bool (n,). ``tell`` may be given gradients that were not wanted, and must not look at them."""
        ...


@dataclass(frozen=True)
class StageRecord(Rows):
    """Progress of a whole-batch attack, enough to resume it: one batch of one stage has ended.

    Attributes:
        stage, batch: position of the stage in the attack and of the batch in the stage, int64 (1,).
        misclassified: which images (in the caller's order) the package counts as misclassified by now, bool (1, n).
        forwards, backwards: what each has cost by now, int64 (1, n).
        zero_gradient: whose first gradient was zero, bool (1, n).
    """

    stage: Tensor
    batch: Tensor
    misclassified: Tensor
    forwards: Tensor
    backwards: Tensor
    zero_gradient: Tensor


@dataclass(frozen=True)
class RunOptions:
    """How a package's attack is run.

    Attributes:
        seed: of everything random in the package; the caller's generators stay as they are.
        batch_size: images given to the package at once. What it finds depends on it.
        device: where the model is.
        done: records of an interrupted run of the same call: it goes on after them. Their results are not repeated,
            clean mistakes are.
    """

    seed: int
    batch_size: int
    device: torch.device | str = "cpu"
    done: Sequence[StageRecord] = ()


@runtime_checkable
class PackageAttack(Protocol):
    """A package's attack, which can't be asked: it is given the model and runs to its end, batch by batch."""

    @property
    def name(self) -> str: ...
    @property
    def norms(self) -> tuple[str, ...]: ...
    @property
    def threat(self) -> ThreatModel: ...

    def definition(self) -> dict[str, Any]: ...

    def run(self, model: nn.Module, samples: Batch, options: RunOptions) -> Iterator[Any]:
        """Yields an AttackResult as samples end (each exactly once) and a StageRecord after each batch.

        Raises:
            AdvdpnpError: unusable images, labels or logits; the package or its attack fails.
        """
        ...


@dataclass(frozen=True)
class BoundedAttack:
    """Base of the attacks in ``algorithms``: within eps, under Linf or L2 unless a subclass says otherwise.

    Raises:
        AdvdpnpError: on construction, under another norm.
    """

    threat: ThreatModel

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    minimum_norm: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_norm(self)


def check_norm(attack: Any) -> None:
    """Refuse an attack under a norm that it does not declare.

    Args:
        attack: anything with a ``name``, a ``threat`` and ``norms``.

    Raises:
        AdvdpnpError: the norm of its threat model is none of its ``norms``.
    """
    norm, norms = attack.threat.norm, attack.norms
    if norm not in norms:
        theirs = "autoattack, apgd-ce, apgd-t, fab-t and square"
        reference = f"; under l1 there are {theirs}, with --engine reference" if norm == "l1" else ""
        raise AdvdpnpError(
            f"the attack '{attack.name}' does not search under {norm}; it does under {', '.join(norms)}{reference}"
        )


_MOST_STEPS = 1_000_000


def positive_integer(value: int | str, name: str) -> int:
    """Read the parameter of a name such as ``pgd-20``.

    Raises:
        AdvdpnpError: it is no whole number above zero.
    """
    text = str(value)
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= _MOST_STEPS):
        raise AdvdpnpError(
            f"'{text}' in '{name}' is not a number of steps from 1 to {_MOST_STEPS}; write for example pgd-20"
        )
    return int(text)
