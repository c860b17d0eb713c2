"""Attacks in stages: each is given what the ones before it could not break."""

from dataclasses import dataclass
from typing import Any

from advdpnp.attacks.protocol import ATTACKS, Attack, check_norm
from advdpnp.attacks.threat import ThreatModel


@dataclass(frozen=True)
class AttackEnsemble:
    """Attacks that run one after the other; the engine overlaps them, so that its batch stays full.

    Attributes:
        name: what it is called in tables.
        stages: of one threat model, none of them a minimum-norm attack, each of another name.
        decisive: name of the stage that is repeated in float32 on samples that survive a search in lower precision.
    """

    name: str
    stages: tuple[Attack, ...]
    decisive: str | None = None

    minimum_norm = False

    def __post_init__(self) -> None:
        if not self.stages or len({stage.name for stage in self.stages}) < len(self.stages):
            raise ValueError("an attack in stages needs stages, each of another name")
        if any(stage.minimum_norm or stage.threat != self.threat for stage in self.stages):
            raise ValueError("the stages must search within eps, under one threat model")
        check_norm(self)

    @property
    def threat(self) -> ThreatModel:
        """Of all stages."""
        return self.stages[0].threat

    @property
    def norms(self) -> tuple[str, ...]:
        """Those that every stage can search under."""
        return tuple(norm for norm in self.stages[0].norms if all(norm in stage.norms for stage in self.stages))

    def definition(self) -> dict[str, Any]:
        """What determines the search, as JSON."""
        return {"attack": self.name, "stages": [stage.definition() for stage in self.stages], "version": 1}


@ATTACKS.register(
    "fast",
    description="APGD-CE, then APGD-T: two stages of AutoAttack, which it is not",
    reference="two of the four stages of Croce and Hein 2020",
    status="ours",
)
def fast(threat: ThreatModel, classes: int) -> AttackEnsemble:
    names = ["apgd-ce", "apgd-t"] if classes >= 4 else ["apgd-ce"]
    return AttackEnsemble(
        "fast", tuple(ATTACKS.make(name, threat=threat, classes=classes) for name in names), names[-1]
    )
