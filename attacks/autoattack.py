"""AutoAttack as this project's own stages (Croce and Hein 2020)."""

from advdpnp.attacks.apgd import APGD, REFERENCE
from advdpnp.attacks.averaged import Averaged
from advdpnp.attacks.contract import ATTACKS
from advdpnp.attacks.stages import Stages
from advdpnp.attacks.threat import ThreatModel
from advdpnp.errors import AdvdpnpError

_REPEATS = 20


@ATTACKS.register(
    "autoattack-rand",
    description="AutoAttack for randomised models: APGD-CE and APGD-DLR on gradients averaged over 20 draws",
    reference=REFERENCE,
)
def autoattack_rand(threat: ThreatModel, classes: int) -> Stages:
    if classes < 3:
        raise AdvdpnpError(f"the DLR loss needs at least 3 classes and the model has {classes}; use apgd-ce")
    stages = (APGD(threat, objective, name=f"apgd-{objective}-eot") for objective in ("ce", "dlr"))
    return Stages("autoattack-rand", tuple(Averaged(stage, _REPEATS) for stage in stages))
