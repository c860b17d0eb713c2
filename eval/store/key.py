"""What identifies one evaluation: an attack or a corruption, a threat model, a data set, and their hash."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.untrusted.columns import RESERVED
from advdpnp.base.untrusted.text import LONGEST_NAME, shown

if TYPE_CHECKING:
    from advdpnp.attacks.threat import ThreatModel

CLEAN = "clean"
CORRUPTION = "corruption/"


def check_label(label: str, attacked: bool) -> None:
    """Whether tables can have a column of this name, or rows.

    Raises:
        AdvdpnpError: they cannot.
    """
    if not 0 < len(label) <= LONGEST_NAME or not label.isprintable():
        raise AdvdpnpError(
            f"{shown(label)} cannot be the name of an attack: give it 1 to {LONGEST_NAME} characters without line "
            "breaks and control characters"
        )
    if attacked and (
        label in RESERVED or label.startswith(("corruption:", "corruptions_")) or label.endswith(("_low", "_high"))
    ):
        raise AdvdpnpError(f"an attack cannot be called '{label}', for tables have another column of this name")


def canonical_json(value: object) -> str:
    """The one text of a JSON value: keys sorted, no spaces, floats in their shortest exact form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def short_hash(value: object) -> str:
    """The first 8 hex digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:8]


def as_ranges(samples: Sequence[int]) -> str:
    """Sorted samples as text: "0-63,70"."""
    values = np.asarray(samples, np.int64)
    parts = np.split(values, np.flatnonzero(np.diff(values) != 1) + 1) if len(values) else []
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def of_ranges(text: str) -> list[int]:
    """The samples of ``as_ranges``."""
    ends = [tuple(map(int, part.split("-"))) for part in text.split(",") if part]
    return [sample for each in ends for sample in range(each[0], each[-1] + 1)]


def sample_set_hash(samples: Sequence[int]) -> str:
    """Identifies a set of samples; part of the definition of attacks that see them all at once."""
    return short_hash([int(sample) for sample in samples])


def is_targeted(identity: Mapping[str, Any]) -> bool:
    """Whether the attack of a definition or identity aims at targets."""
    attack = identity.get("attack")
    return isinstance(attack, Mapping) and bool(attack.get("targets"))


def file_name(text: str) -> str:
    """``text`` made safe as part of a file name on every system: anything unusual becomes ``_``."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("._")[:100] or "_"


def stem_of(label: str, norm: str | None, eps_text: str, key_hash: str) -> str:
    """Name of an evaluation's files, and what evaluations are sorted by: ``pgd-20@linf-8_255-1a2b3c4d``."""
    threat = "" if norm is None else f"@{norm}-{file_name(eps_text)}"
    return f"{file_name(label)}{threat}-{key_hash}"


@dataclass(frozen=True)
class EvaluationKey:
    """What decides a verdict, apart from the model and the sample.

    Attributes:
        label: "clean", the attack's name as in tables ("pgd-20"), or "corruption/fog/3".
        data: content hash of the images and labels.
        threat: what the adversary may do; None for clean images and corruptions.
        definition: JSON values that determine the search: the attack's own definition, engine, precision, execution
            shape and seed. Another value anywhere is another unit.
    """

    label: str
    data: str
    threat: ThreatModel | None
    definition: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_label(self.label, self.threat is not None)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything the hash is of. eps counts as a number: "8/255" and "0.03137254901960784" are the same."""
        threat = self.threat
        described = (
            None if threat is None else {"norm": threat.norm, "eps": threat.eps, "low": threat.low, "high": threat.high}
        )
        return {"label": self.label, "data": self.data, "threat": described, **self.definition}

    @property
    def targeted(self) -> bool:
        """Whether a success is an image that is taken for its target."""
        return is_targeted(self.definition)

    @property
    def hash(self) -> str:
        """8 hex digits of the identity."""
        return short_hash(self.identity)

    @property
    def stem(self) -> str:
        """Name of its folder of parts: ``pgd-20@linf-8_255-1a2b3c4d``."""
        if self.threat is None:
            return stem_of(self.label, None, "", self.hash)
        return stem_of(self.label, self.threat.norm, self.threat.text, self.hash)

    @property
    def threat_label(self) -> str:
        """Of the threat model; "" without an adversary."""
        return "" if self.threat is None else self.threat.label

    @property
    def text(self) -> str:
        """For people: "pgd-20, linf 8/255"."""
        return ", ".join(filter(None, (self.label, self.threat_label)))
