"""What is measured in addition to verdicts, per model, data and threat model: the numbers that flags are made of."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.untrusted.files import STRICT, Count, Text, problem

SANITY_SAMPLES = 128
"""The first so many images of an evaluation are enough for suspicion."""

VERSION = 1
"""Raised when the measurements mean something else."""

_Digits = Annotated[str, Field(pattern=r"^[01]*$", max_length=1_000_000)]


class _Ends(BaseModel):
    lowest: float
    highest: float
    least_sum: float
    greatest_sum: float


class _Chance(BaseModel):
    classes: Annotated[int, Field(ge=2, le=1_000_000)]
    right: dict[Text, _Digits]


class _Numbers(BaseModel):
    """What ``numbers`` may hold; none has to be there."""

    failed: str = ""
    probabilities: bool = False
    outputs: _Ends = None  # type: ignore[assignment]  # absent, never null
    overlooked: float = 0.0
    differentiations: int = 0
    training_modules: list[str] = []
    zero_start: float = 0.0
    zero_gradient: float = 0.0
    nan_gradient: float = 0.0
    rising: float | None = None
    rounded: float | None = None
    stateful: float = 0.0
    right: dict[Text, _Digits] = {}
    chance: _Chance = None  # type: ignore[assignment]


ABSENT = {name: field.default for name, field in _Numbers.model_fields.items()}
"""What a number counts as where a record does not have it."""


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

    # Measured numbers of every kind of net: some are NaN.
    __pydantic_config__: ClassVar[ConfigDict] = STRICT | ConfigDict(allow_inf_nan=True)

    weights: Text
    data: Text
    samples: Annotated[int, Field(ge=1, le=1_000_000)]
    seed: Count
    norm: Text
    eps: Annotated[float, Field(allow_inf_nan=False)] | None
    eps_text: Text
    numbers: dict[str, Any]
    version: Count = VERSION

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
        try:
            numbers = _Numbers.model_validate(record.numbers, strict=True)
        except ValidationError as error:
            raise ValueError(f"diagnostics: {problem(error)}") from None
        others = numbers.chance.right if numbers.chance else {}
        digits = {**numbers.right, **others}
        missing = {name: record.samples - len(each) for name, each in digits.items()}
        if missing.pop("pgd-20", 0) < 0 or any(missing.values()):  # PGD runs on the first images alone
            raise ValueError("there is not one digit for each sample")
        if numbers.chance and "clean" not in numbers.right:
            raise ValueError("answers in other ranges without those to clean images")


def diagnostics_of(
    measured: Iterable[DiagnosticRecord], folder: Path, weights: str, data: str, norm: str, eps: float
) -> list[DiagnosticRecord]:
    """Of what is stored in ``folder``: a model's answers on these data, and its search under this threat model.

    Raises:
        AdvdpnpError: there is only what a newer version has measured.
    """
    mine = [each for each in measured if (each.weights, each.data) == (weights, data)]
    chosen = []
    for wanted in ("", norm) if norm else ("",):
        same = [each for each in mine if each.norm == wanted and (not wanted or each.eps == eps)]
        known = [each for each in same if each.version == VERSION]
        if not known and any(each.version > VERSION for each in same):
            raise AdvdpnpError(
                f"the measurements in {folder} were made by a newer advdpnp, and without them flags would be missing; "
                "update advdpnp, or run the same evaluation again, which measures once more"
            )
        chosen += sorted(known, key=lambda each: each.samples)[-1:]
    return chosen
