"""AutoAttack as an ensemble of this package's attacks (Croce and Hein 2020)."""

from dataclasses import replace

from advdpnp.attacks.algorithms.apgd import REFERENCE
from advdpnp.attacks.algorithms.auto_pgd import apgd_ce, apgd_dlr, apgd_t
from advdpnp.attacks.algorithms.eot import ExpectationOverTransformation
from advdpnp.attacks.algorithms.fab import fab_t
from advdpnp.attacks.algorithms.square import square
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.losses import check_classes
from advdpnp.attacks.protocol import ATTACKS
from advdpnp.attacks.threat import ThreatModel

_REPEATS = 20


@ATTACKS.register(
    "autoattack",
    description="AutoAttack, the published standard version: APGD-CE, APGD-T, FAB-T, Square",
    reference=REFERENCE,
)
def autoattack(threat: ThreatModel, classes: int) -> AttackEnsemble:
    remedy = "use the attack 'autoattack-few-classes', which omits that stage"
    check_classes(classes, 4, "AutoAttack's targeted DLR loss", remedy)
    return AttackEnsemble(
        "autoattack", tuple(build(threat, classes) for build in (apgd_ce, apgd_t, fab_t, square)), "apgd-t"
    )


@ATTACKS.register(
    "autoattack-few-classes",
    description="AutoAttack without its targeted DLR stage, for 2 or 3 classes: APGD-CE, FAB-T, Square",
    reference=REFERENCE,
    status="ours",
)
def autoattack_few_classes(threat: ThreatModel, classes: int) -> AttackEnsemble:
    stages = tuple(build(threat, classes) for build in (apgd_ce, fab_t, square))
    return AttackEnsemble("autoattack-few-classes", stages, "fab-t")


@ATTACKS.register(
    "autoattack-rand",
    description="AutoAttack for randomised models: APGD-CE and APGD-DLR on gradients averaged over 20 draws",
    reference=REFERENCE,
)
def autoattack_rand(threat: ThreatModel, classes: int) -> AttackEnsemble:
    stages = (apgd_ce(threat, classes), apgd_dlr(threat, classes))
    averaged = tuple(
        ExpectationOverTransformation(replace(stage, name=f"{stage.name}-eot"), _REPEATS) for stage in stages
    )
    return AttackEnsemble("autoattack-rand", averaged)
