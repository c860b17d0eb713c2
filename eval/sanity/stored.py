"""Measurements on disk: one small JSON file per model, data and threat model, beside the verdicts."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advdpnp.errors import AdvdpnpError
from advdpnp.eval.unit import file_name, short_hash
from advdpnp.files import write_text

SANITY_SAMPLES = 128
"""The first so many images of an evaluation are enough for suspicion."""

VERSION = 1
"""Raised when the measurements mean something else."""


@dataclass(frozen=True)
class Measured:
    """One measurement and what it is about.

    Attributes:
        weights, data: hashes.
        samples: how many.
        seed: of the search.
        norm, eps, eps_text: of the threat model; "", None and "" for answers without one.
        numbers: what ``measure_answers`` or ``measure_search`` gave, and what the run adds.
        version: of the measurements.
    """

    weights: str
    data: str
    samples: int
    seed: int
    norm: str
    eps: float | None
    eps_text: str
    numbers: dict[str, Any]
    version: int = VERSION

    @property
    def key(self) -> tuple[object, ...]:
        """All but the numbers, and how eps was written."""
        return self.weights, self.data, self.samples, self.seed, self.norm, self.eps, self.version


def sanity_path(folder: Path, measured: Measured) -> Path:
    """Its file in a model's folder; neither the numbers nor how eps was written play a part."""
    key = short_hash(list(map(str, measured.key)))
    threat = f"{measured.norm} {measured.eps_text}" if measured.norm else "answers"
    known = next(folder.glob(f"sanity-*-{key}.json"), None)
    return known or folder / f"sanity-{file_name(threat)}-{key}.json"


def write_measured(folder: Path, measured: Measured) -> None:
    """Store it; the file appears whole or not at all."""
    write_text(sanity_path(folder, measured), json.dumps(asdict(measured), indent=1) + "\n")


def read_measured(path: Path) -> Measured:
    """Read one.

    Raises:
        AdvdpnpError: the file is damaged.
    """
    try:
        found = Measured(**json.loads(path.read_text(encoding="utf-8")))
        if not isinstance(found.numbers, dict) or not isinstance(found.numbers.get("right", {}), dict):
            raise ValueError("its numbers are missing")
        return found
    except (OSError, ValueError, TypeError) as error:
        raise AdvdpnpError(f"{path} is damaged; delete it and run the same evaluation again") from error


def measured_of(folder: Path, weights: str, data: str, norm: str, eps: float) -> list[Measured]:
    """What is stored of a model on these data: its answers, and its search under this threat model ("" for none)."""
    found = [read_measured(path) for path in sorted(folder.glob("sanity-*.json"))]
    mine = [each for each in found if (each.weights, each.data, each.version) == (weights, data, VERSION)]
    chosen = []
    for wanted in ("", norm) if norm else ("",):
        same = [each for each in mine if each.norm == wanted and (not wanted or each.eps == eps)]
        chosen += sorted(same, key=lambda each: each.samples)[-1:]
    return chosen
