"""Contradictions between what an evaluation is called and what it is by its definition."""

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import advdpnp.attacks  # noqa: F401  (its modules register themselves)
from advdpnp.attacks.algorithms.transfer import PREFIX
from advdpnp.attacks.criteria import TARGETS, Targeted
from advdpnp.attacks.info import info_of
from advdpnp.attacks.names import reference_of
from advdpnp.attacks.protocol import ATTACKS, aim
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.store.key import CLEAN, CORRUPTION, canonical_json, short_hash
from advdpnp.eval.store.rules.known_data import KNOWN_DATA

_NUMBER = r"[0-9.eE+-]+"
_EPS = re.compile(rf" *{_NUMBER} *(/ *{_NUMBER} *)?")
_FLOAT32 = "float32"
_SUFFIXES = {"budget": r"at most (\d{1,12}) passes", "precision": r"(\w+) search", "targets": r"targeted: ([\w-]+)"}
_MOST_CLASSES = 10  # that change a definition: attacks aim at up to nine targets


def wrong_identity(
    key_hash: str, identity: Mapping[str, Any], eps_text: str, metadata: Mapping[str, Any], classes: int = 0
) -> str:
    """What is called otherwise than it is, in words; "" if nothing.

    Args:
        key_hash: what the evaluation is known by.
        identity: what decides the verdicts.
        eps_text: the radius as it is written.
        metadata: what else is known of the evaluation: dataset, seed, randomised...
        classes: how many the model is said to have; 0 if unknown.
    """
    try:
        return next(filter(None, _faults(key_hash, identity, eps_text, metadata, classes)), "")
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError):
        return "its definition is none"


def _faults(
    key_hash: str, identity: Mapping[str, Any], eps_text: str, metadata: Mapping[str, Any], classes: int
) -> Iterable[str]:
    if short_hash(identity) != key_hash:
        yield "the definition in the file is not the one that its hash is of"
    for name in ("seed", "randomised"):
        if name in identity and name in metadata and metadata[name] != identity[name]:
            yield f"its {name} is {identity[name]} in the definition and {metadata[name]} beside it"
    threat, attack = identity.get("threat"), identity.get("attack")
    label = str(identity["label"])
    if threat is None:
        yield _not_attacked(label, attack, identity.get("corruption"), identity)
        return
    if not _is_threat(threat, eps_text):
        yield "the radius as it is written is not that of its definition"
    if label == CLEAN:
        yield f"it is called '{label}', and an attack ran"
    if isinstance(attack, Mapping):
        known = KNOWN_DATA.get(str(identity["data"]))
        precision = str(identity.get("precision", _FLOAT32))
        yield _misdescribed(label, attack, metadata.get("attack_info"))
        yield _mislabelled(
            label, canonical_json(attack), precision, int(identity.get("budget") or 0), str(threat["norm"]),
            float(threat["eps"]), known.classes if known else classes,
        )  # fmt: skip


def _not_attacked(label: str, attack: Any, corruption: Any, identity: Mapping[str, Any]) -> str:
    if attack is not None:
        return "an attack ran, and there is no threat model"
    if corruption is None:
        return "" if label == CLEAN else f"it is called '{label}', and neither an attack nor a corruption is defined"
    made = f"{CORRUPTION}{corruption['corruption']}/{corruption['severity']}"
    if label != made:
        return f"it is called '{label}', and its definition is of {made}"
    if "source" in corruption and corruption["source"] != identity.get("source"):
        return f"its images are called '{identity.get('source')}', and its definition is of {corruption['source']}"
    return ""


def _is_threat(stated: Mapping[str, Any], eps_text: str) -> bool:
    """Whether a threat model is one of ours, with its radius written so."""
    try:
        eps = ThreatModel.parse(stated["norm"], eps_text).eps if _EPS.fullmatch(eps_text) else None
    except AdvdpnpError:
        return False
    return bool(stated == {"norm": stated["norm"].lower(), "eps": eps, "low": 0.0, "high": 1.0})


class LabelParts(NamedTuple):
    """What the label of an attack says.

    Attributes:
        name: of the attack, as on the command line.
        precision: of its search; "" for float32.
        budget: most passes of an image; 0 for no limit.
        targets: the rule of its targets; "" for an untargeted attack.
    """

    name: str
    precision: str
    budget: int
    targets: str


def parts_of(label: str) -> LabelParts:
    """Take the label of an attack apart: "pgd-20 (targeted: random) (bf16 search) (at most 90 passes)"."""
    found = {}
    for part, pattern in _SUFFIXES.items():
        match = re.fullmatch(rf"(.+) \({pattern}\)", label)
        label, found[part] = (match[1], match[2]) if match else (label, "")
    return LabelParts(label, found["precision"], int(found["budget"] or 0), found["targets"])


def _misdescribed(label: str, attack: Mapping[str, Any], said: Any) -> str:
    """Why one of our attacks does not do what is said beside its definition; "" if it does, or nothing is said."""
    if said is None or not _is_ours(label):
        return ""
    told, defined = info_of({"attack": attack}, said), info_of({"attack": attack})
    wrong = [name for name in ("family", "loss", "steps", "stages") if getattr(told, name) != getattr(defined, name)]
    return f"the {wrong[0]} that it says of itself is not that of its definition" if wrong else ""


def _is_ours(label: str) -> bool:
    """Whether a label names an attack of this package, and not one of another or of the user."""
    name = parts_of(label).name
    if ":" in name:
        return False
    try:
        return str(getattr(ATTACKS.find(name)[0].build, "__module__", "")).startswith("advdpnp.")
    except AdvdpnpError:
        return False


@lru_cache(maxsize=4096)
def _mislabelled(label: str, attack: str, precision: str, budget: int, norm: str, eps: float, classes: int) -> str:
    """Why an attack is not what it is called; "" if it is, or if nothing is known by this name.

    What carries a name of the registry must have the definition of the registry: "autoattack" is what has the
    definition of the published AutoAttack. Names of the user's own attacks mean what the user says, and the prefixes of
    packages what the package does.
    """
    name, searched, most, targets = parts_of(label)
    if not re.fullmatch(rf"{searched} search( \d+)?, float32 verdict" if searched else _FLOAT32, precision):
        return f"it is called '{label}', and its search was in {precision}"
    if most != budget:
        return f"it is called '{label}', and its search was of at most {budget} passes (0: any number)"
    if name.startswith(PREFIX):
        return "" if '"attack":"transfer"' in attack else f"it is called '{label}', and its definition is another one"
    if targets not in ("", *TARGETS) or not _is_ours(label):
        return ""
    stored = json.loads(attack)
    made = [json.loads(each) for count in _possible(classes) if (each := _definition(name, targets, norm, eps, count))]
    if stored in made or any(_is_earlier(stored, each) for each in made):
        return ""
    if _is_reference(stored, name, norm, eps, classes):
        return ""
    return f"it is called '{label}', and its definition is not that of {name}"


def _is_reference(stored: Mapping[str, Any], name: str, norm: str, eps: float, classes: int) -> bool:
    """Whether a definition is that of the same attack in the reference packages, which once had the same name."""
    reference = reference_of(name) if "package" in stored else None
    made = [_definition(reference, "", norm, eps, count) for count in _possible(classes)] if reference else []
    return _without_names(stored) in [_without_names(json.loads(each)) for each in made if each]


def _without_names(definition: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in definition.items() if key not in ("attack", "package_version")}


def _is_earlier(stored: Any, todays: Any) -> bool:
    """Whether a definition has an earlier version than today's, in any of its parts."""
    if isinstance(stored, list) and isinstance(todays, list):
        return any(map(_is_earlier, stored, todays))
    if not (isinstance(stored, dict) and isinstance(todays, dict)):
        return False
    version, now = stored.get("version"), todays.get("version")
    if isinstance(version, int) and isinstance(now, int) and 1 <= version < now:
        return True
    return any(_is_earlier(stored.get(name), todays[name]) for name in todays)


def _possible(classes: int) -> list[int]:
    """Numbers of classes that the model may have had: logits may be more than the names of classes."""
    return list(range(min(max(classes, 2), _MOST_CLASSES), _MOST_CLASSES + 1))


def _definition(name: str, targets: str, norm: str, eps: float, classes: int) -> str:
    """The JSON of the definition of an attack by its name; "" where there is none for so many classes."""
    try:
        attack = ATTACKS.make(name, threat=ThreatModel(norm, eps, ""), classes=classes)
        attack = aim(attack, Targeted(targets)) if targets else attack
        return canonical_json(attack.definition())
    except AdvdpnpError:
        return ""
