"""Attacks of foolbox by their names, run unchanged and verified like our own."""

import inspect
from typing import Any

import torch
from torch import Tensor

from advdpnp.attacks.packages.library_attack import LibraryAttack, Others, P, check_steps, find_name, with_steps
from advdpnp.attacks.packages.query_counter import QueryCounter
from advdpnp.attacks.protocol import ATTACKS
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.compat import import_foolbox
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.libraries import FOOLBOX_SUFFIX, FOOLBOX_UNUSABLE, offered

_STARTED = (
    "BoundaryAttack", "HopSkipJumpAttack", "L0BrendelBethgeAttack", "L1BrendelBethgeAttack", "L2BrendelBethgeAttack",
    "LinfinityBrendelBethgeAttack", "PointwiseAttack",
)  # fmt: skip
"""Attacks that walk from a misclassified image towards the clean one. By default foolbox draws noise for it, which
fails for every image of the class that the model sees in noise."""


class FoolboxAttack(LibraryAttack):
    """One attack class of foolbox, named with or without "Attack". L0 distances of foolbox count values, ours pixels.

    Attacks that walk from a misclassified image start at the nearest one of another class among the images of the run.
    Raises as the base does.
    """

    library = "foolbox"

    @property
    def _kind(self) -> Any:
        attacks = import_foolbox().attacks
        return getattr(attacks, self.attack, None) or getattr(attacks, self.attack + FOOLBOX_SUFFIX)

    @property
    def _parameters(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self._kind.__init__).parameters)

    @property
    def norms(self) -> tuple[str, ...]:
        if "constraint" in self._parameters:
            return "linf", "l2"
        if "distance" in self._parameters:
            return tuple(P)  # the distance is an argument
        distance = getattr(self._kind, "distance", None)
        named = next((norm for norm in P if self.attack.lower().startswith(norm)), None)
        return tuple(norm for norm, p in P.items() if getattr(distance, "p", None) == p or norm == named) or tuple(P)

    @property
    def minimum_norm(self) -> bool:
        return issubclass(self._kind, import_foolbox().attacks.base.MinimizationAttack)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self, "steps" if "steps" in self._parameters else None)
        if self.steps is None and "steps" in self._missing:
            raise AdvdpnpError(f"'{self.name}' needs a number of steps; write for example {self.name}-10")

    @property
    def _missing(self) -> list[str]:
        parameters = list(inspect.signature(self._kind.__init__).parameters.values())[1:]
        return [each.name for each in parameters if each.default is each.empty and "VAR" not in each.kind.name]

    def arguments(self, seed: int) -> dict[str, Any]:
        given = {"steps": self.steps, "constraint": self.threat.norm, "distance": self.threat.norm}
        made = {name: value for name, value in given.items() if name in self._parameters and value is not None}
        return made if self.minimum_norm else {**made, "epsilon": self.threat.eps}

    def craft(self, model: QueryCounter, batch: Batch, seed: int, others: Others) -> tuple[Tensor, Tensor | None]:
        package = import_foolbox()
        arguments = {name: value for name, value in self.arguments(seed).items() if name != "epsilon"}
        if "distance" in arguments:
            arguments["distance"] = getattr(package.distances, self.threat.norm)
        if "across_channels" in self._parameters:
            arguments["channel_axis"] = 1
        wrapped = package.PyTorchModel(model, bounds=(self.threat.low, self.threat.high), device=batch.x.device)
        starts = _nearest_of_other_classes(batch, others()) if self.attack + FOOLBOX_SUFFIX in _STARTED else None
        given = {} if starts is None else {"starting_points": starts}
        eps = None if self.minimum_norm else self.threat.eps
        _, x_adv, success = self._kind(**arguments)(wrapped, batch.x, batch.y, epsilons=eps, **given)
        return x_adv, success


def _nearest_of_other_classes(batch: Batch, others: Batch) -> Tensor | None:
    """For each image the nearest of ``others`` with another label, (m, c, h, w); None if one has none.

    ``others`` are classified correctly, so the model misclassifies them as images of the label.
    """
    found = []
    for x, y in zip(batch.x, batch.y, strict=True):
        rest = others.x[others.y != y.cpu()]
        if not len(rest):
            return None
        found.append(rest[(rest - x.cpu()).flatten(1).norm(dim=1).argmin()])
    return torch.stack(found).to(batch.x.device)


@ATTACKS.register(
    "foolbox:{attack}",
    description="any attack of foolbox by its own name, such as foolbox:LinfPGD-20, foolbox:L2DeepFool or foolbox:DDN",
    reference="Rauber et al., Foolbox Native: Fast adversarial attacks, 2020",
)
def foolbox_attack(threat: ThreatModel, classes: int, attack: str) -> FoolboxAttack:
    import_foolbox()
    name, steps = with_steps(attack)
    for unusable, reason in FOOLBOX_UNUSABLE.items():
        if name.lower().removesuffix("attack") == unusable.lower().removesuffix("attack"):
            raise AdvdpnpError(f"'foolbox:{name}' {reason}; choose another attack")
    found = find_name("foolbox", name, offered().get("foolbox", []), FOOLBOX_SUFFIX)
    return FoolboxAttack(threat, classes, found, steps)
