"""What is measured in addition to verdicts, per model, data and threat model: the numbers that flags are made of."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field

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


def check_diagnostics(record: DiagnosticRecord) -> None:
    """Refuse numbers that no measurement of this version gives; those of other versions are not looked at.

    Raises:
        ValueError: there are some.
    """
    if record.version == VERSION:
        numbers = _Numbers.model_validate(record.numbers, strict=True)
        if any(len(digits) != record.samples for digits in numbers.right.values()):
            raise ValueError("there is not one digit for each sample")
