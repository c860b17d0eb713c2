"""Any attack class of torchattacks by its own name, run as it is and verified like our own."""

import inspect
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advdpnp.attacks.engine.executor import evaluation_mode
from advdpnp.attacks.packages.query_counter import QueryCounter
from advdpnp.attacks.packages.verified_run import VerifiedRun
from advdpnp.attacks.protocol import ATTACKS, RunOptions, StageRecord, check_norm, positive_integer
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.search_state import AttackResult
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.compat import import_torchattacks
from advdpnp.base.errors import AdvdpnpError, did_you_mean
from advdpnp.base.randomness import isolated_rng, seed_of

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
RADII = ("eps", "max_epsilon")
"""What torchattacks calls the radius of the ball."""

NOTES = {"AutoAttack": "not AutoAttack: torchattacks' own variant with 10 steps per stage and another Square schedule"}


@dataclass(frozen=True)
class TorchattacksAttack:
    """One attack class of torchattacks.

    Its radius, norm and number of classes are set where its signature has them, and its step size keeps its default
    proportion to the radius; all else is the package's default.

    Attributes:
        attack: name of the class ("PGD", "DeepFool").
        steps: instead of the package's default, for the classes that count steps.
    """

    threat: ThreatModel
    classes: int
    attack: str
    steps: int | None = None

    @property
    def name(self) -> str:
        return f"torchattacks:{self.attack}" + ("" if self.steps is None else f"-{self.steps}")

    @property
    def norms(self) -> tuple[str, ...]:
        """Norms it searches under; classes that name none get every one, and the verifier decides."""
        kind = _find(self.attack)
        measured = re.search(r"Distance Measure\s*:\s*(.*)", inspect.getdoc(kind) or "")
        named = measured.group(1) if measured else "Linf, L2, L1"
        return tuple(norm for norm, theirs in NORMS.items() if theirs in named)

    def __post_init__(self) -> None:
        missing = [
            parameter.name
            for parameter in list(inspect.signature(_find(self.attack)).parameters.values())[1:]
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        ]
        if missing or "model" not in inspect.signature(_find(self.attack)).parameters:
            needed = ", ".join(missing) or "attacks"
            raise AdvdpnpError(f"'{self.name}' cannot be used by name: it needs {needed}; choose another")
        if not self.norms:
            raise AdvdpnpError(
                f"'{self.name}' changes few pixels without bound, which no threat model here covers; choose another"
            )
        if self.steps is not None and "steps" not in inspect.signature(_find(self.attack)).parameters:
            raise AdvdpnpError(f"'{self.name}' names {self.steps} steps, but {self.attack} has none; leave them out")
        check_norm(self)

    def arguments(self, seed: int) -> dict[str, Any]:
        """Arguments of its constructor, apart from the model."""
        parameters = inspect.signature(_find(self.attack)).parameters
        radius = next((name for name in RADII if name in parameters), None)
        given: dict[str, Any] = {"norm": NORMS[self.threat.norm], "n_classes": self.classes, "seed": seed}
        if radius is not None:
            given[radius] = self.threat.eps
            if "alpha" in parameters:
                given["alpha"] = parameters["alpha"].default * self.threat.eps / parameters[radius].default
        if self.steps is not None:
            given["steps"] = self.steps
        return {name: value for name, value in given.items() if name in parameters}

    def definition(self) -> dict[str, Any]:
        arguments = {name: value for name, value in self.arguments(0).items() if name != "seed"}
        return {
            "attack": self.name, "package": "torchattacks", "package_version": version("torchattacks"),
            "arguments": arguments, "order_dependent": True, "note": NOTES.get(self.attack, ""), "version": 1,
        }  # fmt: skip

    def run(self, model: nn.Module, samples: Batch, options: RunOptions) -> Iterator[StageRecord | AttackResult]:
        """Attack the images classified right, in batches."""
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
                seed = seed_of(options.seed, self.name, batch)
                findings = verified.verify(index, self._batch(model, verified, index, seed))
                misclassified[index] = findings.success
                yield findings
                yield verified.record(0, batch, misclassified)

    def _batch(self, model: nn.Module, verified: VerifiedRun, index: Tensor, seed: int) -> Tensor:
        device = verified.executor.device
        counted = QueryCounter(model).eval()  # in eval mode itself, so the package finds no mode to restore
        small = seed % 2**32
        with isolated_rng():
            random.seed(small)
            np.random.seed(small)
            torch.manual_seed(small)
            try:
                attack = _find(self.attack)(counted, **self.arguments(small))
                attack.set_device(device)
                x_adv: Tensor = attack(verified.x[index].to(device), verified.y[index].to(device))
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise AdvdpnpError(
                    f"'{self.name}' fails on this model and these images: {reason}; choose another"
                ) from error
        model.eval()  # some of its attacks switch parts of the model to training
        verified.charge(index, counted)
        return x_adv


def _find(name: str) -> Any:
    """The attack class of that name.

    Raises:
        AdvdpnpError: torchattacks has none; the message offers what is nearest.
    """
    package = import_torchattacks()
    names = [each for each in package.__all__ if each not in package.__wrapper__ or each == name]
    if name in names:
        return getattr(package, name)
    lower = {each.lower(): each for each in names}
    hint = did_you_mean(lower.get(name.lower(), name), names, otherwise=f"it has {', '.join(names)}")
    raise AdvdpnpError(f"torchattacks has no attack called '{name}'; {hint}")


@ATTACKS.register(
    "torchattacks:{attack}",
    description="any attack of the torchattacks package by its own name, such as torchattacks:DeepFool or PGD-20",
    reference="Kim, Torchattacks: A PyTorch Repository for Adversarial Attacks, 2020",
)
def package_attack(threat: ThreatModel, classes: int, attack: str) -> TorchattacksAttack:
    steps = re.fullmatch(r"(\w+)-(\d+)", attack)
    if steps is None:
        return TorchattacksAttack(threat, classes, attack)
    return TorchattacksAttack(threat, classes, steps[1], positive_integer(steps[2], attack))
