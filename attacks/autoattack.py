"""AutoAttack as this project's own stages (Croce and Hein 2020)."""

from dataclasses import replace

from advdpnp.attacks.apgd import REFERENCE, apgd_ce, apgd_dlr
from advdpnp.attacks.averaged import Averaged
from advdpnp.attacks.contract import ATTACKS
from advdpnp.attacks.stages import Stages
from advdpnp.attacks.threat import ThreatModel

_REPEATS = 20


@ATTACKS.register(
    "autoattack-rand",
    description="AutoAttack for randomised models: APGD-CE and APGD-DLR on gradients averaged over 20 draws",
    reference=REFERENCE,
)
def autoattack_rand(threat: ThreatModel, classes: int) -> Stages:
    stages = (apgd_ce(threat, classes), apgd_dlr(threat, classes))
    averaged = tuple(Averaged(replace(stage, name=f"{stage.name}-eot"), _REPEATS) for stage in stages)
    return Stages("autoattack-rand", averaged)
