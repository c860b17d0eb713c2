"""Minimum-margin attack: short Auto-PGD runs on the raw margin at the nearest classes (Gao et al. 2022)."""

from advdpnp.attacks.algorithms.apgd import APGD, TARGETED_MARGIN
from advdpnp.attacks.protocol import ATTACKS, positive_integer
from advdpnp.attacks.threat import ThreatModel

REFERENCE = "Gao et al., Fast and Reliable Evaluation of Adversarial Robustness with Minimum-Margin Attack, 2022"
STEPS, MOST = 20, 9


@ATTACKS.register(
    "mm-{targets}",
    description="MM-k: Auto-PGD on the target's logit minus the label's, 20 steps at each of the k classes with the "
    "largest other logits of the clean image; the paper has k = 3, 5 and 9",
    reference=REFERENCE,
)
def mm(threat: ThreatModel, classes: int, targets: int | str) -> APGD:
    count = positive_integer(targets, f"mm-{targets}", "targets", "mm-5")
    return APGD(threat, TARGETED_MARGIN, STEPS, min(count, classes - 1), name=f"mm-{count}")


@ATTACKS.register("mm-plus", description="MM+: as mm-9, with 100 steps at each target", reference=REFERENCE)
def mm_plus(threat: ThreatModel, classes: int) -> APGD:
    return APGD(threat, TARGETED_MARGIN, 100, min(MOST, classes - 1), name="mm-plus")
