"""Resolve the text of ``--attacks`` to attacks."""

import json
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.protocol import ATTACKS, Attack, PackageAttack, check_name, check_norm
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError, first_line

FEW_CLASSES = 4
"""With fewer classes the targeted DLR loss, and so the published AutoAttack, is undefined."""

ENGINES = ("own", "reference")

_REFERENCES = (
    (r"fgsm", "torchattacks:FGSM"),
    (r"pgd-(\d+)", r"torchattacks:PGD-\1"),
    (r"autoattack(-few-classes)?", "pyautoattack"),
    (r"(apgd-ce|apgd-t|fab-t|square)", r"pyautoattack:\1"),
    (r"((?:torchattacks|pyautoattack)(?::.+)?)", r"\1"),
)
"""Patterns of our attack names and the names of the same attacks in the reference packages."""


def standard_attacks(classes: int, norm: str = "linf", engine: str = "own") -> list[str]:
    """Names for "all": fgsm, pgd-20, cw and autoattack (without its DLR stage for 2 or 3 classes).

    Under L1, apgd-ce and apgd-t, or autoattack with the reference engine.

    Raises:
        AdvdpnpError: the norm is L0, under which only libraries search.
    """
    if norm == "l0":
        raise AdvdpnpError("'all' names no attack under l0; name some of libraries, such as adv-lib:sigma_zero-100")
    if norm == "l1":
        own = ["apgd-ce", "apgd-t"] if classes >= FEW_CLASSES else ["apgd-ce"]
        return own if engine == "own" else ["autoattack"]
    return ["fgsm", "pgd-20", "cw", "autoattack" if classes >= FEW_CLASSES else "autoattack-few-classes"]


def reference_of(name: str) -> str | None:
    """Name of the same attack in torchattacks or pyautoattack; None if neither has it."""
    for pattern, reference in _REFERENCES:
        if match := re.fullmatch(pattern, name):
            return match.expand(reference)
    return None


def attack_names(text: str | Sequence[str], classes: int, engine: str = "own", norm: str = "linf") -> list[str]:
    """Expand "all", "none" or comma-separated names to names of attacks, without duplicates.

    Args:
        text: the text of ``--attacks``, or a list of names.
        classes: number of classes of the model.
        engine: "own", or "reference" for the same attacks in torchattacks and pyautoattack. With "reference", "all"
            omits attacks that these packages do not have.
        norm: norm of the threat model.

    Raises:
        AdvdpnpError: there is no name, the engine is unknown, or the packages do not have a named attack.
    """
    if engine not in ENGINES:
        raise AdvdpnpError(f"there is no engine called '{engine}'; choose {' or '.join(ENGINES)}")
    names = text.split(",") if isinstance(text, str) else list(text)
    names = [name.strip() for name in names if name.strip()]
    if names == ["none"]:
        return []
    if "none" in names:
        raise AdvdpnpError("'none' means no attack and cannot be combined with other names; remove it or the others")
    if not names:
        raise AdvdpnpError("no attack is named; use all, none, or comma-separated names such as fgsm,pgd-20")
    standard = standard_attacks(classes, norm, engine) if "all" in names else []
    if engine == "own":
        return list(dict.fromkeys(each for name in names for each in (standard if name == "all" else [name])))
    references: list[str] = []
    for name in names:
        counterparts = [reference_of(each) for each in (standard if name == "all" else [name])]
        if counterparts == [None]:
            raise AdvdpnpError(f"the reference packages have no counterpart of '{name}'; remove it or use --engine own")
        references += [each for each in counterparts if each is not None]
    return list(dict.fromkeys(references))


def resolve_attacks(
    text: str | Sequence[str], threat: ThreatModel, classes: int, engine: str = "own"
) -> list[tuple[str, Attack | AttackEnsemble | PackageAttack]]:
    """Build the attacks for "all", "none" or comma-separated names, as (label, attack) in order, without duplicates.

    Args:
        text: the text of ``--attacks``, or a list of names.
        threat: threat model of every attack.
        classes: number of classes of the model.
        engine: "own" or "reference", as for ``attack_names``.

    Raises:
        AdvdpnpError: an attack is unknown, or does not support the norm or the number of classes.
    """
    attacks: dict[str, Any] = {}
    for name in attack_names(text, classes, engine, threat.norm):
        if name.lower() == "aa":  # nearer to "cw" than to what it means
            raise AdvdpnpError(f"there is no attack called '{name}'; did you mean autoattack?")
        attack = ATTACKS.make(name, threat=threat, classes=classes)
        check_attack(name, attack)
        attacks.setdefault(attack.name, attack)
    return list(attacks.items())


def with_threat(attack: Any, threat: ThreatModel) -> Any:
    """The same attack under another threat model.

    Raises:
        AdvdpnpError: it is no attack, does not support the norm, or cannot be changed.
    """
    name = getattr(attack, "name", type(attack).__name__)
    check_attack(name, attack)
    if attack.threat == threat:
        return attack
    held = {each.name for each in fields(attack)} if is_dataclass(attack) and not isinstance(attack, type) else set()
    if isinstance(attack, AttackEnsemble):
        return replace(attack, stages=tuple(with_threat(stage, threat) for stage in attack.stages))
    if "threat" in held:
        return replace(attack, threat=threat)
    if "attack" in held:  # it wraps another one
        return replace(attack, attack=with_threat(attack.attack, threat))
    raise AdvdpnpError(f"the attack '{name}' is made for {attack.threat.label}; make it for {threat.label} too")


def check_attack(name: str, attack: Any) -> None:
    """Check that an object is an attack that can run and be stored.

    Raises:
        AdvdpnpError: it lacks a part, does not support the norm, or its definition is not JSON.
    """
    if not isinstance(attack, Attack | AttackEnsemble | PackageAttack):
        raise AdvdpnpError(
            f"'{name}' builds {type(attack).__name__}, which is no attack; it needs name, threat, norms, minimum_norm, "
            "definition, start, ask and tell"
        )
    check_name(attack.name)
    check_norm(attack)
    try:
        json.dumps(attack.definition(), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AdvdpnpError(
            f"the definition of the attack '{attack.name}' is not JSON ({first_line(error)}); use numbers, text, lists "
            "and dictionaries"
        ) from error
