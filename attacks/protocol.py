"""The ask/tell interface of attacks.

An attack never sees the model, never loops over steps and never decides whether an image is adversarial. In each
iteration the engine asks it for images, evaluates the model on them, and tells it the logits and gradients. The attack
keeps its variables in a state with one row per sample, so rows of different iterations can share a batch.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from advdpnp.attacks.criteria import MISCLASSIFIED, Criterion, Targeted
from advdpnp.attacks.rows import Batch, Rows
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import Draw
from advdpnp.base.registry import Registry
from advdpnp.base.untrusted.columns import RESERVED

Loss = Callable[[Tensor], Tensor]
"""Maps logits (n, classes) to one value per sample (n,), which the attack maximises."""


def check_name(name: str) -> None:
    """Check that an attack can have a name: ``--attacks`` can say it, and no other column is called so.

    Raises:
        AdvdpnpError: it cannot.
    """
    wrong = ""
    if not isinstance(name, str) or not name or name != name.strip() or "," in name or not name.isprintable():
        wrong = "needs a name of text without commas, and without spaces at its ends"
    elif name in ("all", "none"):
        wrong = "needs another name: --attacks uses this one for itself"
    elif name in RESERVED or re.match("corruptions?[:_]|transfer:|(median|mean)_distance:", name):
        wrong = "needs another name: a column of the leaderboard has this one"
    elif re.search("_(low|high|mean|std|min|max|p)$|_difference(_|$)", name):
        wrong = "needs another name: columns of the leaderboard end like this one; write '-' for '_'"
    elif re.search(r" \((\w+ search|at most .* passes)\)$", name):
        wrong = "needs another name: what stands in brackets at its end is said of searches"
    if wrong:
        raise AdvdpnpError(f"the attack '{name}' {wrong}")


ATTACKS = Registry("attack", "advdpnp.attacks", check_name)
"""Builders ``build(threat: ThreatModel, classes: int, **defaults) -> Attack | PackageAttack``."""


@dataclass(frozen=True)
class State(Rows):
    """The fields that the state of every attack has.

    Attributes:
        x: clean images in [0, 1], (n, c, h, w).
        y: labels, int64 (n,); the targets of a targeted attack.
        done: whether the search of the row has ended, bool (n,). ``ask`` then returns the last image, which the engine
            still verifies.
        draw: random stream of each row.
    """

    x: Tensor
    y: Tensor
    done: Tensor
    draw: Draw


@runtime_checkable
class Attack(Protocol):
    """An attack: a frozen dataclass of hyper-parameters that holds no tensors.

    Attributes:
        name: name on the command line ("pgd-20"). The random streams depend on it.
        norms: norms that the attack supports.
        minimum_norm: whether it searches for the nearest adversarial image rather than for any image within eps.
        threat: norm, eps and bounds.
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
        """Everything that determines the search except the threat model and the seed, as JSON."""
        ...

    def start(self, x: Tensor, y: Tensor, logits: Tensor | None, draw: Draw) -> Any:
        """Create the state of the first iteration.

        Args:
            x: clean images in [0, 1], (n, c, h, w).
            y: labels, int64 (n,); the targets of a targeted attack.
            logits: logits of the clean images, (n, classes). None in training.
            draw: random stream of each row.
        """
        ...

    def ask(self, state: Any) -> tuple[Tensor, Loss | None]:
        """Images to evaluate, (n, c, h, w), and the loss to differentiate. None: logits alone are enough."""
        ...

    def tell(self, state: Any, logits: Tensor, gradient: Tensor | None, misclassified: Tensor) -> Any:
        """Compute the state of the next iteration.

        The engine may pass rows that are done. The attack must not fail on them; their new state is discarded.

        Args:
            logits: logits of the images that ``ask`` returned, (n, classes).
            gradient: gradient of the loss with respect to these images, (n, c, h, w). None without a loss.
            misclassified: whether the prediction differs from the label (a targeted attack: is the target), bool (n,).
        """
        ...


@runtime_checkable
class PeriodicGradient(Protocol):
    """An attack that needs a gradient only for every ``gradient_period``-th query of a row, beginning with the first.

    The engine keeps rows in phase where it can. It skips the backward pass when no row of a chunk needs a gradient.
    """

    @property
    def gradient_period(self) -> int: ...

    def wants_gradient(self, state: Any) -> Tensor:
        """Rows that need a gradient, bool (n,). ``tell`` must ignore the gradients of all other rows."""
        ...


@runtime_checkable
class Preparing(Protocol):
    """An attack that can make a part of its states for several iterations at once, which costs fewer operations.

    The engine prepares every new state, and again before it has told a prepared one more than ``prepared_for`` times.
    The attack must give the same queries without.
    """

    @property
    def prepared_for(self) -> int: ...

    def prepare(self, state: Any) -> Any:
        """The state, prepared. Tensors of prepared states have one shape."""
        ...


def prepared(attack: Any, state: Any) -> Any:
    """The state, prepared if the attack prepares any."""
    return attack.prepare(state) if isinstance(attack, Preparing) else state


PREPARED_FOR = 16
"""Iterations for which the attacks of this package prepare their states, and most wrappers of attacks."""


@dataclass(frozen=True)
class StageRecord(Rows):
    """Progress of a package's attack after one batch of one stage. The last record is enough to resume the run.

    Attributes:
        stage, batch: index of the stage in the attack and of the batch in the stage, int64 (1,).
        misclassified: images that the package counts as misclassified so far, in the caller's order, bool (1, n).
        forwards, backwards: model evaluations of each sample so far, int64 (1, n).
        zero_gradient: samples whose first gradient was zero, bool (1, n).
    """

    stage: Tensor
    batch: Tensor
    misclassified: Tensor
    forwards: Tensor
    backwards: Tensor
    zero_gradient: Tensor


@dataclass(frozen=True)
class RunOptions:
    """How to run a package's attack.

    Attributes:
        seed: seed of the package's random numbers. The caller's generators do not change.
        batch_size: images per call of the package. The results depend on it.
        device: device of the model.
        done: records of an interrupted run with the same arguments. The run resumes after them. It does not yield
            their results again, except those of misclassified clean images.
        unasked: a copy of the model from before its first call, which judges the images too; None: there is none.
    """

    seed: int
    batch_size: int
    device: torch.device | str = "cpu"
    done: Sequence[StageRecord] = ()
    unasked: nn.Module | None = None


@runtime_checkable
class PackageAttack(Protocol):
    """An attack of another package. It has no ask/tell interface: it takes the model and runs batch by batch."""

    @property
    def name(self) -> str: ...
    @property
    def norms(self) -> tuple[str, ...]: ...
    @property
    def threat(self) -> ThreatModel: ...

    def definition(self) -> dict[str, Any]: ...

    def run(self, model: nn.Module, samples: Batch, options: RunOptions) -> Iterator[Any]:
        """Yield an AttackResult when samples finish (each sample once) and a StageRecord after each batch.

        Raises:
            AdvdpnpError: the images, labels or logits are invalid, or the package fails.
        """
        ...


@dataclass(frozen=True)
class BoundedAttack:
    """Base of the attacks in ``algorithms``: they search within eps, under Linf or L2 unless a subclass overrides it.

    Raises:
        AdvdpnpError: on construction, if the attack does not support the norm of the threat model.
    """

    threat: ThreatModel

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    minimum_norm: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_norm(self)


@dataclass(frozen=True)
class TargetableAttack(BoundedAttack):
    """Base of the attacks that can also aim at a target class: they maximise ``criterion.ascent`` of their loss.

    Attributes:
        criterion: what counts as a success. ``State.y`` holds its goal.
    """

    criterion: Criterion = field(default=MISCLASSIFIED, kw_only=True)

    def targeted(self, criterion: Targeted) -> Self:
        """The same attack at targets. Its name says so: "pgd-20 (targeted: least-likely)"."""
        changes: dict[str, Any] = {"name": f"{getattr(self, 'name')} (targeted: {criterion.targets})"}  # noqa: B009
        return replace(self, criterion=criterion, **changes)


TARGETABLE = ("fgsm", "pgd-N", "cw", "apgd-ce", "apgd-dlr", "cw-l2", "fab-t", "pma")
"""Names of the attacks that can aim at targets."""


def aim(attack: Any, criterion: Targeted) -> Any:
    """The same attack at targets.

    Raises:
        AdvdpnpError: it cannot aim at targets.
    """
    if not isinstance(attack, TargetableAttack):
        raise AdvdpnpError(f"the attack '{attack.name}' cannot aim at targets; {', '.join(TARGETABLE)} can")
    return attack.targeted(criterion)


def check_norm(attack: Any) -> None:
    """Check that an attack supports the norm of its threat model.

    Args:
        attack: any object with ``name``, ``threat`` and ``norms``.

    Raises:
        AdvdpnpError: it does not.
    """
    norm, norms = attack.threat.norm, attack.norms
    if norm not in norms:
        hint = _OTHERS.get(norm, "")
        raise AdvdpnpError(f"the attack '{attack.name}' does not support {norm}, only {', '.join(norms)}{hint}")


_OTHERS = {
    "l1": "; for l1 use apgd-ce, apgd-t, adv-lib:fmn or pyautoattack",
    "l0": "; for l0 use attacks of libraries, such as adv-lib:sigma_zero or torchattacks:Pixle",
}


_MOST_STEPS = 1_000_000


def positive_integer(value: int | str, name: str, what: str = "steps", example: str = "pgd-20") -> int:
    """Parse the number of steps, or of ``what``, in a name such as ``pgd-20``.

    Raises:
        AdvdpnpError: it is not an integer from 1 to 1,000,000.
    """
    text = str(value)
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= _MOST_STEPS):
        raise AdvdpnpError(
            f"'{text}' in '{name}' is not a number of {what} from 1 to {_MOST_STEPS}; write for example {example}"
        )
    return int(text)
