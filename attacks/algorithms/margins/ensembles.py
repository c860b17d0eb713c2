"""Ensembles beside AutoAttack: one for seconds, one for the last few images."""

from dataclasses import replace

from advdpnp.attacks.algorithms.apgd import APGD, TARGETED_MARGIN
from advdpnp.attacks.algorithms.auto_pgd import apgd_t
from advdpnp.attacks.algorithms.margins.malt import in_order
from advdpnp.attacks.algorithms.margins.mm import MOST, STEPS, mm_plus
from advdpnp.attacks.algorithms.margins.pma import pma
from advdpnp.attacks.algorithms.square import square
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.protocol import ATTACKS
from advdpnp.attacks.threat import ThreatModel


@ATTACKS.register(
    "quick",
    description="20 steps of Auto-PGD on the cross-entropy, then mm-9 with its targets in MALT's order: an estimate in "
    "seconds, not AutoAttack",
    reference="parts of Croce and Hein 2020, Gao et al. 2022 and Melamed et al. 2024",
    status="ours",
)
def quick(threat: ThreatModel, classes: int) -> AttackEnsemble:
    margins = APGD(threat, TARGETED_MARGIN, STEPS, min(MOST, classes - 1), name="mm-9-malt")
    return AttackEnsemble(
        "quick", (APGD(threat, "ce", STEPS, name="apgd-ce-20"), in_order(margins, classes)), margins.name
    )


@ATTACKS.register(
    "strong",
    description="pma, then apgd-t (2 or 3 classes: mm-plus), then square, from other noise than AutoAttack's, at three "
    "quarters of its price",
    reference="parts of Xie et al. 2025 and Croce and Hein 2020",
    status="ours",
)
def strong(threat: ThreatModel, classes: int) -> AttackEnsemble:
    stages = pma, apgd_t if classes >= 4 else mm_plus, square
    made = (build(threat, classes) for build in stages)
    named = tuple(replace(attack, name=f"strong-{attack.name}") for attack in made)  # other noise than in AutoAttack
    return AttackEnsemble("strong", named, named[1].name)
