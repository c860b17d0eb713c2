"""Measurements on disk: one small JSON file per model, data and threat model, beside the verdicts."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import write_text
from advdpnp.eval.store.key import file_name, short_hash

SANITY_SAMPLES = 128
"""The first so many images of an evaluation are enough for suspicion."""

VERSION = 1
"""Raised when the measurements mean something else."""

_Digits = Annotated[str, Field(pattern=r"^[01]*$")]


class _Ends(BaseModel):
    lowest: float
    highest: float
    least_sum: float
    greatest_sum: float


class _Numbers(BaseModel):
    """What ``numbers`` may hold; none has to be there."""

    failed: str = ""
    probabilities: bool = False
    outputs: _Ends | None = None
    overlooked: float = 0.0
    differentiations: int = 0
    training_modules: list[str] = []
    zero_start: float = 0.0
    zero_gradient: float = 0.0
    nan_gradient: float = 0.0
    rising: float | None = None
    rounded: float | None = None
    right: dict[str, _Digits] = {}


@dataclass(frozen=True)
class DiagnosticRecord:
    """One measurement and what it is about.

    Attributes:
        weights, data: hashes.
        samples: how many.
        seed: of the search.
        norm, eps, eps_text: of the threat model; "", None and "" for answers without one.
        numbers: what ``measure_outputs`` or ``measure_gradients`` gave, and what the run adds.
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


_MEASURED = TypeAdapter(DiagnosticRecord)


def sanity_path(folder: Path, measured: DiagnosticRecord) -> Path:
    """Its file in a model's folder; neither the numbers nor how eps was written play a part."""
    key = short_hash(list(map(str, measured.key)))
    threat = f"{measured.norm} {measured.eps_text}" if measured.norm else "answers"
    known = next(folder.glob(f"sanity-*-{key}.json"), None)
    return known or folder / f"sanity-{file_name(threat)}-{key}.json"


def write_diagnostics(folder: Path, measured: DiagnosticRecord) -> None:
    """Store it; the file appears whole or not at all."""
    write_text(sanity_path(folder, measured), json.dumps(asdict(measured), indent=1) + "\n")


def read_diagnostics(path: Path) -> DiagnosticRecord:
    """Read one; what another version has measured is not looked at.

    Raises:
        AdvdpnpError: the file is damaged.
    """
    try:
        found = _MEASURED.validate_json(path.read_bytes(), strict=True)
        if found.version == VERSION:
            numbers = _Numbers.model_validate(found.numbers, strict=True)
            if any(len(digits) != found.samples for digits in numbers.right.values()):
                raise ValueError("there is not one digit for each sample")
        return found
    except (OSError, ValueError) as error:
        raise AdvdpnpError(f"{path} is damaged; delete it and run the same evaluation again") from error


def has_diagnostics(folder: Path, about: DiagnosticRecord) -> bool:
    """Whether this is stored in a model's folder, by this version.

    Raises:
        AdvdpnpError: the file is damaged.
    """
    path = sanity_path(folder, about)
    return path.exists() and read_diagnostics(path).key == about.key


def diagnostics_of(folder: Path, weights: str, data: str, norm: str, eps: float) -> list[DiagnosticRecord]:
    """What is stored of a model on these data: its answers, and its search under this threat model ("" for none).

    Raises:
        AdvdpnpError: a file is damaged, or there is only what a newer version has measured.
    """
    found = [(path, read_diagnostics(path)) for path in sorted(folder.glob("sanity-*.json"))]
    mine = [(path, each) for path, each in found if (each.weights, each.data) == (weights, data)]
    chosen = []
    for wanted in ("", norm) if norm else ("",):
        same = [(path, each) for path, each in mine if each.norm == wanted and (not wanted or each.eps == eps)]
        known = [each for _, each in same if each.version == VERSION]
        newer = [path for path, each in same if each.version > VERSION]
        if newer and not known:
            raise AdvdpnpError(
                f"{newer[0]} was made by a newer advdpnp, and without it flags would be missing; update advdpnp, or "
                "run the same evaluation again, which measures once more"
            )
        chosen += sorted(known, key=lambda each: each.samples)[-1:]
    return chosen
