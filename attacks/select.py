"""From what a user writes after --attacks to the attacks to run."""

from collections.abc import Sequence
from typing import Any

from advdpnp.attacks.contract import ATTACKS, Attack, WholeBatchAttack
from advdpnp.attacks.stages import Stages
from advdpnp.attacks.threat import ThreatModel
from advdpnp.errors import AdvdpnpError

FEW_CLASSES = 4
"""Below this many classes the targeted DLR loss, hence AutoAttack as published, does not exist."""


def standard_attacks(classes: int) -> list[str]:
    """What "all" means: fgsm, pgd-20, cw and autoattack (without its DLR stage for 2 or 3 classes)."""
    return ["fgsm", "pgd-20", "cw", "autoattack" if classes >= FEW_CLASSES else "autoattack-few-classes"]


def resolve_attacks(
    text: str | Sequence[str], threat: ThreatModel, classes: int
) -> list[tuple[str, Attack | Stages | WholeBatchAttack]]:
    """Labels and attacks for "all", "none" or names with commas, in the order given, each once.

    Raises:
        AdvdpnpError: an unknown attack, or one that cannot search under this norm or for this many classes.
    """
    names = text.split(",") if isinstance(text, str) else list(text)
    names = [name.strip() for name in names if name.strip()]
    if names == ["none"]:
        return []
    if not names or "none" in names:
        raise AdvdpnpError("no attack is named; write all, none, or names with commas such as fgsm,pgd-20")
    expanded = [each for name in names for each in (standard_attacks(classes) if name == "all" else [name])]
    found: dict[str, Any] = {}
    for name in expanded:
        attack = ATTACKS.make(name, threat=threat, classes=classes)
        found.setdefault(attack.name, attack)
    return list(found.items())
