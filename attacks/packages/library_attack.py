"""What the adapters of attack libraries share: batches, seeds, verification, and names.

An adapter says which norms an attack has, which arguments it gets and how it is called. Everything else is here.
"""

import math
import random
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from advdpnp.attacks.engine.executor import evaluation_mode
from advdpnp.attacks.packages.query_counter import QueryCounter
from advdpnp.attacks.packages.verified_run import VerifiedRun
from advdpnp.attacks.protocol import RunOptions, StageRecord, check_norm, positive_integer
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.search_state import AttackResult
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.devices import OUT_OF_MEMORY
from advdpnp.base.errors import AdvdpnpError, did_you_mean, first_line
from advdpnp.base.randomness import isolated_rng, seed_of

P = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}
"""The p of each norm, as libraries take it."""

Others = Callable[[], Batch]
"""Gives the correctly classified images of a whole run on the CPU, for attacks that start at one of them."""


@dataclass(frozen=True)
class LibraryAttack(ABC):
    """One attack of a library, run unchanged on whole batches of correctly classified images.

    The library gets the radius, the norm and the number of classes where it takes them. Step sizes keep their default
    ratio to the radius. All other parameters keep the library's defaults.

    Attributes:
        classes: number of classes of the model.
        attack: name of the attack in the library ("PGD", "DeepFool").
        steps: number of steps; None means the library's default.

    Raises:
        AdvdpnpError: on construction, if the library is missing, the attack needs other arguments, or it does not
            support the norm.
    """

    threat: ThreatModel
    classes: int
    attack: str
    steps: int | None = None

    library: ClassVar[str]
    """The prefix of names on the command line, which is the name of the distribution unless overridden."""
    notes: ClassVar[dict[str, str]] = {}
    """Warnings that are stored with the verdicts, by attack."""

    @property
    def name(self) -> str:
        return f"{self.library}:{self.attack}" + ("" if self.steps is None else f"-{self.steps}")

    @property
    def distribution(self) -> str:
        """Name of the distribution, whose version is stored."""
        return self.library

    @property
    @abstractmethod
    def norms(self) -> tuple[str, ...]: ...

    @property
    @abstractmethod
    def minimum_norm(self) -> bool:
        """Whether it searches for the nearest adversarial image at any distance; then eps is not an argument."""

    @abstractmethod
    def arguments(self, seed: int) -> dict[str, Any]:
        """Arguments of the attack that are not the library's defaults, as JSON."""

    @abstractmethod
    def craft(self, model: QueryCounter, batch: Batch, seed: int, others: Others) -> tuple[Tensor, Tensor | None]:
        """Run the library.

        Args:
            model: counts its evaluations; in eval mode.
            batch: correctly classified images on the model's device.
            seed: for libraries that take one; Python's, NumPy's and torch's generators are seeded already.
            others: see ``Others``.

        Returns:
            Images (m, c, h, w) on any device, and which of them the library claims to be adversarial, bool (m,); None
            if it does not say.
        """

    def __post_init__(self) -> None:
        check_norm(self)

    def definition(self) -> dict[str, Any]:
        arguments = {name: value for name, value in self.arguments(0).items() if name != "seed"}
        return {
            "attack": self.name, "package": self.library, "package_version": version(self.distribution),
            "arguments": arguments, "minimum_norm": self.minimum_norm, "order_dependent": True,
            "note": self.notes.get(self.attack, ""), "version": 1,
        }  # fmt: skip

    def run(self, model: nn.Module, samples: Batch, options: RunOptions) -> Iterator[StageRecord | AttackResult]:
        """Attack the correctly classified images in batches."""
        done = options.done
        if len(samples) == 0:
            return
        with evaluation_mode(model):
            verified = VerifiedRun(model, self.threat, samples, options)
            yield verified.clean(torch.nonzero(~verified.right)[:, 0])
            misclassified = ~verified.right
            if done:
                verified.resume(done[-1])
                misclassified = done[-1].misclassified[0].bool().clone()
            batches = [index for index in torch.nonzero(verified.right)[:, 0].split(options.batch_size) if len(index)]
            for batch, index in list(enumerate(batches))[len(done) :]:
                x_adv, claimed = self._batch(model, verified, index, seed_of(options.seed, self.name, batch))
                result = verified.verify(index, x_adv, claimed, minimum_norm=self.minimum_norm)
                misclassified[index] = result.success
                yield result
                yield verified.record(0, batch, misclassified)

    def _batch(self, model: nn.Module, verified: VerifiedRun, index: Tensor, seed: int) -> tuple[Tensor, Tensor | None]:
        counted = QueryCounter(model).eval()  # in eval mode, so that the package does not restore training mode
        seed_32 = seed % 2**32
        batch = verified.batch(index).to(verified.executor.device)
        with isolated_rng(), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            random.seed(seed_32)
            np.random.seed(seed_32)
            torch.manual_seed(seed_32)
            try:
                x_adv, claimed = self.craft(
                    counted, batch, seed_32, lambda: verified.batch(torch.nonzero(verified.right)[:, 0])
                )
            except (*OUT_OF_MEMORY, AdvdpnpError):
                raise
            except Exception as error:
                missing = error.name if isinstance(error, ModuleNotFoundError) else None
                remedy = f"install it with: pip install {missing}" if missing else "choose another attack"
                raise AdvdpnpError(
                    f"'{self.name}' fails on this model and these images: {first_line(error)}; {remedy}"
                ) from error
        model.eval()  # some attacks switch parts of the model to training mode
        verified.charge(index, counted)
        if x_adv.shape != batch.x.shape:
            raise AdvdpnpError(
                f"'{self.name}' returns images of shape {tuple(x_adv.shape)} for {tuple(batch.x.shape)}; "
                "choose another attack"
            )
        return x_adv, claimed


def with_steps(text: str) -> tuple[str, int | None]:
    """Split "PGD-20" into name and number of steps; without a number, None."""
    parts = re.fullmatch(r"(.+)-(\d+)", text)
    return (parts[1], positive_integer(parts[2], text)) if parts else (text, None)


def check_steps(attack: LibraryAttack, parameter: str | None) -> None:
    """Check that an attack with a number of steps takes one.

    Raises:
        AdvdpnpError: it does not.
    """
    if attack.steps is not None and parameter is None:
        raise AdvdpnpError(f"'{attack.name}' sets {attack.steps} steps, but {attack.attack} has none; remove them")


def find_name(library: str, name: str, names: Iterable[str], suffix: str = "") -> str:
    """The library's own spelling of a name. Upper and lower case are alike, and ``suffix`` may be left out.

    Raises:
        AdvdpnpError: the library has no such attack; the message suggests similar names.
    """
    spelled = {key: each for each in names for key in (each.lower(), each.removesuffix(suffix).lower())}
    for key in (name.lower(), name.lower().removesuffix(suffix.lower())):
        if key in spelled:
            return spelled[key]
    close = did_you_mean(name.lower(), spelled, otherwise="")
    known = sorted({each.removesuffix(suffix) for each in spelled.values()})
    words = [spelled[word].removesuffix(suffix) for word in re.findall(r"[^\s?]+", close) if word in spelled]
    hint = f"did you mean {' or '.join(dict.fromkeys(words))}?" if words else f"it has {', '.join(known)}"
    raise AdvdpnpError(f"{library} has no attack called '{name}'; {hint}")
