"""Attacks of adv-lib by their names, run unchanged and verified like our own."""

import inspect
from typing import Any

from torch import Tensor

from advdpnp.attacks.packages.library_attack import LibraryAttack, Others, P, check_steps, find_name, with_steps
from advdpnp.attacks.packages.query_counter import QueryCounter
from advdpnp.attacks.protocol import ATTACKS
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.compat import import_adv_lib
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.libraries import ADV_LIB, offered

STEPS = ("steps", "num_steps", "n_iter", "max_iterations", "max_iter", "iter")
RADII = ("eps", "ε")


class AdvLibAttack(LibraryAttack):
    """One attack of adv-lib. Most search for the nearest adversarial image. Raises as its base does."""

    library = "adv-lib"

    @property
    def norms(self) -> tuple[str, ...]:
        return tuple(ADV_LIB[self.attack].split())

    @property
    def minimum_norm(self) -> bool:
        return self.attack not in ("apgd", "apgd_targeted", "pgd_linf")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self, self._steps)

    @property
    def _parameters(self) -> tuple[str, ...]:
        return tuple(inspect.signature(getattr(import_adv_lib(), self.attack)).parameters)

    @property
    def _steps(self) -> str | None:
        """The parameter for the number of steps."""
        return next((name for name in STEPS if name in self._parameters), None)

    def arguments(self, seed: int) -> dict[str, Any]:
        given: dict[str, Any] = {"norm": self.threat.norm, "distance": self.threat.norm, "p": self.threat.norm}
        given |= {} if self.minimum_norm else dict.fromkeys(RADII, self.threat.eps)
        given |= {} if self.steps is None else {str(self._steps): self.steps}
        return {name: value for name, value in given.items() if name in self._parameters}

    def craft(self, model: QueryCounter, batch: Batch, seed: int, others: Others) -> tuple[Tensor, Tensor | None]:
        arguments = self.arguments(seed) | {"targeted": False}
        arguments |= {name: P[self.threat.norm] for name in ("norm", "p") if name in arguments}
        x_adv = getattr(import_adv_lib(), self.attack)(model, batch.x, batch.y, **arguments)
        # All but tr return the clean image where they found nothing.
        claimed = None if self.attack == "tr" else (x_adv != batch.x).flatten(1).any(1)
        return x_adv, claimed


@ATTACKS.register(
    "adv-lib:{attack}",
    description="any attack of adv-lib by its own name, such as adv-lib:fmn, adv-lib:ddn or adv-lib:sigma_zero-100",
    reference="Rony and Ben Ayed, Adversarial Library, 2020",
)
def adv_lib_attack(threat: ThreatModel, classes: int, attack: str) -> AdvLibAttack:
    import_adv_lib()
    name, steps = with_steps(attack)
    if name.lower() == "perc_al":
        raise AdvdpnpError("'adv-lib:perc_al' measures colours and keeps to no norm; choose another attack")
    return AdvLibAttack(threat, classes, find_name("adv-lib", name, offered().get("adv-lib", [])), steps)
