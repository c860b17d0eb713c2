"""From what a user writes after --attacks to the attacks to run."""

import re
from collections.abc import Sequence
from typing import Any

from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.protocol import ATTACKS, Attack, PackageAttack, check_norm
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError

FEW_CLASSES = 4
"""Below this many classes the targeted DLR loss, hence AutoAttack as published, does not exist."""

ENGINES = ("own", "reference")

_REFERENCES = (
    (r"fgsm", "torchattacks:FGSM"),
    (r"pgd-(\d+)", r"torchattacks:PGD-\1"),
    (r"autoattack(-few-classes)?", "pyautoattack"),
    (r"(apgd-ce|apgd-t|fab-t|square)", r"pyautoattack:\1"),
    (r"((?:torchattacks|pyautoattack)(?::.+)?)", r"\1"),
)
"""Which attack of the packages is the counterpart of ours."""


def standard_attacks(classes: int) -> list[str]:
    """What "all" means: fgsm, pgd-20, cw and autoattack (without its DLR stage for 2 or 3 classes)."""
    return ["fgsm", "pgd-20", "cw", "autoattack" if classes >= FEW_CLASSES else "autoattack-few-classes"]


def reference_of(name: str) -> str | None:
    """The name of the same attack as torchattacks or pyautoattack have it; None if neither does."""
    for pattern, reference in _REFERENCES:
        if match := re.fullmatch(pattern, name):
            return match.expand(reference)
    return None


def attack_names(text: str | Sequence[str], classes: int, engine: str = "own") -> list[str]:
    """The names that "all", "none" or names with commas stand for, each once.

    Args:
        engine: "own", or "reference" for the counterparts in torchattacks and pyautoattack. With it, "all" leaves
            out what these packages do not have.

    Raises:
        AdvdpnpError: no name, an engine that does not exist, or no counterpart.
    """
    if engine not in ENGINES:
        raise AdvdpnpError(f"there is no engine called '{engine}'; choose {' or '.join(ENGINES)}")
    names = text.split(",") if isinstance(text, str) else list(text)
    names = [name.strip() for name in names if name.strip()]
    if names == ["none"]:
        return []
    if "none" in names:
        raise AdvdpnpError("'none' stands alone and means no attack; leave it out, or leave out the others")
    if not names:
        raise AdvdpnpError("no attack is named; write all, none, or names with commas such as fgsm,pgd-20")
    standard = standard_attacks(classes)
    if engine == "own":
        return list(dict.fromkeys(each for name in names for each in (standard if name == "all" else [name])))
    found: list[str] = []
    for name in names:
        counterparts = [reference_of(each) for each in (standard if name == "all" else [name])]
        if counterparts == [None]:
            raise AdvdpnpError(
                f"the reference packages have no counterpart of '{name}'; leave it out or use --engine own"
            )
        found += [each for each in counterparts if each is not None]
    return list(dict.fromkeys(found))


def resolve_attacks(
    text: str | Sequence[str], threat: ThreatModel, classes: int, engine: str = "own"
) -> list[tuple[str, Attack | AttackEnsemble | PackageAttack]]:
    """Labels and attacks for "all", "none" or names with commas, in the order given, each once.

    Raises:
        AdvdpnpError: an unknown attack, or one that cannot search under this norm or for this many classes.
    """
    found: dict[str, Any] = {}
    for name in attack_names(text, classes, engine):
        attack = ATTACKS.make(name, threat=threat, classes=classes)
        check_norm(attack)
        found.setdefault(attack.name, attack)
    return list(found.items())
