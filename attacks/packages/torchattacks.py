"""Any attack class of torchattacks by its name, run unchanged and verified like our own."""

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
"""Names of the parameter for eps in torchattacks."""

NOTES = {"AutoAttack": "not AutoAttack: torchattacks' own variant with 10 steps per stage and another Square schedule"}


@dataclass(frozen=True)
class TorchattacksAttack:
    """One attack class of torchattacks.

    The radius, norm and number of classes are set if the class has these parameters. The step size keeps its default
    ratio to the radius. All other parameters keep the package's defaults.

    Attributes:
        classes: number of classes of the model.
        attack: name of the class ("PGD", "DeepFool").
        steps: number of steps; None means the package's default.

    Raises:
        AdvdpnpError: on construction, if the class is unknown, needs other arguments, or does not support the norm.
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
        """Norms in the docstring of the class. Without one, all norms: verification decides."""
        kind = _find(self.attack)
        documented = re.search(r"Distance Measure\s*:\s*(.*)", inspect.getdoc(kind) or "")
        named = documented.group(1) if documented else "Linf, L2, L1"
        return tuple(norm for norm, package_norm in NORMS.items() if package_norm in named)

    def __post_init__(self) -> None:
        missing = [
            parameter.name
            for parameter in list(inspect.signature(_find(self.attack)).parameters.values())[1:]
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        ]
        if missing or "model" not in inspect.signature(_find(self.attack)).parameters:
            needed = ", ".join(missing) or "attacks"
            raise AdvdpnpError(f"'{self.name}' cannot be used by name because it needs {needed}; choose another attack")
        if not self.norms:
            raise AdvdpnpError(
                f"'{self.name}' changes few pixels by any amount, and L0 is not supported; choose another attack"
            )
        if self.steps is not None and "steps" not in inspect.signature(_find(self.attack)).parameters:
            raise AdvdpnpError(f"'{self.name}' sets {self.steps} steps, but {self.attack} has none; remove them")
        check_norm(self)

    def arguments(self, seed: int) -> dict[str, Any]:
        """Arguments of the constructor except the model."""
        parameters = inspect.signature(_find(self.attack)).parameters
        radius = next((name for name in RADII if name in parameters), None)
        arguments: dict[str, Any] = {"norm": NORMS[self.threat.norm], "n_classes": self.classes, "seed": seed}
        if radius is not None:
            arguments[radius] = self.threat.eps
            if "alpha" in parameters:
                arguments["alpha"] = parameters["alpha"].default * self.threat.eps / parameters[radius].default
        if self.steps is not None:
            arguments["steps"] = self.steps
        return {name: value for name, value in arguments.items() if name in parameters}

    def definition(self) -> dict[str, Any]:
        arguments = {name: value for name, value in self.arguments(0).items() if name != "seed"}
        return {
            "attack": self.name, "package": "torchattacks", "package_version": version("torchattacks"),
            "arguments": arguments, "order_dependent": True, "note": NOTES.get(self.attack, ""), "version": 1,
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
                seed = seed_of(options.seed, self.name, batch)
                result = verified.verify(index, self._batch(model, verified, index, seed))
                misclassified[index] = result.success
                yield result
                yield verified.record(0, batch, misclassified)

    def _batch(self, model: nn.Module, verified: VerifiedRun, index: Tensor, seed: int) -> Tensor:
        device = verified.executor.device
        counted = QueryCounter(model).eval()  # in eval mode, so that the package does not restore training mode
        seed_32 = seed % 2**32
        with isolated_rng():
            random.seed(seed_32)
            np.random.seed(seed_32)
            torch.manual_seed(seed_32)
            try:
                attack = _find(self.attack)(counted, **self.arguments(seed_32))
                attack.set_device(device)
                x_adv: Tensor = attack(verified.x[index].to(device), verified.y[index].to(device))
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise AdvdpnpError(
                    f"'{self.name}' fails on this model and these images: {reason}; choose another attack"
                ) from error
        model.eval()  # some attacks switch parts of the model to training mode
        verified.charge(index, counted)
        return x_adv


def _find(name: str) -> Any:
    """The attack class with this name.

    Raises:
        AdvdpnpError: torchattacks has no such class; the message suggests similar names.
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
