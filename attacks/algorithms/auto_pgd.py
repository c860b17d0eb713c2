"""Auto-PGD by its names, under every norm it has.

Under L1 it takes the settings of the published AutoAttack: five starts or five target classes.
"""

from advdpnp.attacks.algorithms.apgd import APGD, REFERENCE, TARGETED_DLR, AutoPGD
from advdpnp.attacks.algorithms.apgd_l1 import APGDL1
from advdpnp.attacks.losses import check_classes
from advdpnp.attacks.protocol import ATTACKS
from advdpnp.attacks.threat import ThreatModel

_L1_RUNS = 5


def _of(threat: ThreatModel, objective: str, runs: int, name: str) -> AutoPGD:
    if threat.norm == "l1":
        return APGDL1(threat, objective, runs=_L1_RUNS if objective != TARGETED_DLR else min(_L1_RUNS, runs), name=name)
    return APGD(threat, objective, runs=runs, name=name)


@ATTACKS.register(
    "apgd-ce",
    description="Auto-PGD on the cross-entropy, 100 steps, one random start; under L1 sparse steps and five starts",
    reference=REFERENCE,
)
def apgd_ce(threat: ThreatModel, classes: int) -> AutoPGD:
    return _of(threat, "ce", 1, "apgd-ce")


@ATTACKS.register(
    "apgd-dlr",
    description="Auto-PGD on the difference of logits ratio, 100 steps, one random start; under L1 five",
    reference=REFERENCE,
)
def apgd_dlr(threat: ThreatModel, classes: int) -> AutoPGD:
    check_classes(classes, 3, "the DLR loss", "use apgd-ce")
    return _of(threat, "dlr", 1, "apgd-dlr")


@ATTACKS.register(
    "apgd-t",
    description="Auto-PGD on the targeted difference of logits ratio, 100 steps for each of up to 9 target classes; "
    "under L1 up to 5",
    reference=REFERENCE,
)
def apgd_t(threat: ThreatModel, classes: int) -> AutoPGD:
    check_classes(classes, 4, "the targeted DLR loss", "use apgd-ce")
    return _of(threat, TARGETED_DLR, min(9, classes - 1), "apgd-t")
