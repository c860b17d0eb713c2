"""Any attack class of torchattacks by its name, run unchanged and verified like our own."""

import inspect
import re
from typing import Any

from torch import Tensor

from advdpnp.attacks.packages.library_attack import LibraryAttack, Others, check_steps, with_steps
from advdpnp.attacks.packages.query_counter import QueryCounter
from advdpnp.attacks.protocol import ATTACKS
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.compat import import_torchattacks
from advdpnp.base.errors import AdvdpnpError, did_you_mean

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1", "l0": "L0"}
RADII = ("eps", "max_epsilon", "pixels")
"""Names of the parameter for eps in torchattacks."""


class TorchattacksAttack(LibraryAttack):
    """One attack class of torchattacks. Raises as its base does."""

    library = "torchattacks"
    notes = {  # noqa: RUF012 (a constant)
        "AutoAttack": "not AutoAttack: torchattacks' own variant with 10 steps per stage and another Square schedule"
    }

    @property
    def norms(self) -> tuple[str, ...]:
        """Norms in the docstring of the class. Without one, all norms: verification decides."""
        kind = _find(self.attack)
        documented = re.search(r"Distance Measure\s*:\s*(.*)", inspect.getdoc(kind) or "")
        named = documented.group(1) if documented else "Linf, L2, L1, L0"
        return tuple(norm for norm, package_norm in NORMS.items() if package_norm in named)

    @property
    def minimum_norm(self) -> bool:
        return not set(RADII) & set(inspect.signature(_find(self.attack)).parameters)

    def __post_init__(self) -> None:
        parameters = inspect.signature(_find(self.attack)).parameters
        missing = [
            parameter.name
            for parameter in list(parameters.values())[1:]
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        ]
        if missing or "model" not in parameters:
            needed = ", ".join(missing) or "attacks"
            raise AdvdpnpError(f"'{self.name}' cannot be used by name because it needs {needed}; choose another attack")
        check_steps(self, "steps" if "steps" in parameters else None)
        super().__post_init__()

    def arguments(self, seed: int) -> dict[str, Any]:
        """Arguments of the constructor except the model."""
        parameters = inspect.signature(_find(self.attack)).parameters
        radius = next((name for name in RADII if name in parameters), None)
        arguments: dict[str, Any] = {"norm": NORMS[self.threat.norm], "n_classes": self.classes, "seed": seed}
        if radius is not None:
            arguments[radius] = int(self.threat.eps) if self.threat.norm == "l0" else self.threat.eps
            if "alpha" in parameters:
                arguments["alpha"] = parameters["alpha"].default * self.threat.eps / parameters[radius].default
        if self.steps is not None:
            arguments["steps"] = self.steps
        return {name: value for name, value in arguments.items() if name in parameters}

    def definition(self) -> dict[str, Any]:
        return {name: value for name, value in super().definition().items() if name != "minimum_norm"}

    def craft(self, model: QueryCounter, batch: Batch, seed: int, others: Others) -> tuple[Tensor, Tensor | None]:
        attack = _find(self.attack)(model, **self.arguments(seed))
        attack.set_device(batch.x.device)
        return attack(batch.x, batch.y), None


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
    return TorchattacksAttack(threat, classes, *with_steps(attack))
