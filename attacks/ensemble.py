"""Ensembles: attacks in stages, each of which runs on the samples that survive the stages before it."""

from dataclasses import dataclass
from typing import Any

from advdpnp.attacks.criteria import Criterion, criterion_of
from advdpnp.attacks.protocol import ATTACKS, Attack, check_norm
from advdpnp.attacks.threat import ThreatModel


@dataclass(frozen=True)
class AttackEnsemble:
    """Attacks that run one after the other. The engine overlaps the stages to keep its batch full.

    Attributes:
        name: name in tables.
        stages: attacks with distinct names and one threat model; none is a minimum-norm attack.
        decisive: name of the stage that runs again in float32 on samples that survive a search in lower precision.

    Raises:
        ValueError: on construction, if the stages break these rules.
        AdvdpnpError: on construction, if a stage does not support the norm.
    """

    name: str
    stages: tuple[Attack, ...]
    decisive: str | None = None

    minimum_norm = False

    def __post_init__(self) -> None:
        if not self.stages or len({stage.name for stage in self.stages}) < len(self.stages):
            raise ValueError("an attack ensemble needs at least one stage, and its stages must have distinct names")
        if any(stage.minimum_norm or stage.threat != self.threat for stage in self.stages):
            raise ValueError("the stages must share one threat model, and none may be a minimum-norm attack")
        if any(criterion_of(stage) != self.criterion for stage in self.stages):
            raise ValueError("the stages must share one criterion")
        check_norm(self)

    @property
    def threat(self) -> ThreatModel:
        """Threat model of all stages."""
        return self.stages[0].threat

    @property
    def criterion(self) -> Criterion:
        """What counts as a success in all stages."""
        return criterion_of(self.stages[0])

    @property
    def norms(self) -> tuple[str, ...]:
        """Norms that every stage supports."""
        return tuple(norm for norm in self.stages[0].norms if all(norm in stage.norms for stage in self.stages))

    def definition(self) -> dict[str, Any]:
        """Everything that determines the search except the threat model and the seed, as JSON."""
        return {"attack": self.name, "stages": [stage.definition() for stage in self.stages], "version": 1}


@ATTACKS.register(
    "fast",
    description="APGD-CE, then APGD-T: two of the four stages of AutoAttack",
    reference="two of the four stages of Croce and Hein 2020",
    status="ours",
)
def fast(threat: ThreatModel, classes: int) -> AttackEnsemble:
    names = ["apgd-ce", "apgd-t"] if classes >= 4 else ["apgd-ce"]
    return AttackEnsemble(
        "fast", tuple(ATTACKS.make(name, threat=threat, classes=classes) for name in names), names[-1]
    )
