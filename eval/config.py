"""The options of an evaluation, declared and checked once, for the command line and Python callers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from advdpnp.attacks.criteria import Targeted
from advdpnp.attacks.engine.precision import FLOAT32, as_precision
from advdpnp.attacks.engine.search import check_budget
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError


class EvaluationConfig(BaseModel):
    """The options of an evaluation.

    Attributes:
        attacks: "all" (fgsm, pgd-20, cw, autoattack), "none", or comma-separated names.
        norm: "linf", "l2", "l1" or "l0" (changed pixels).
        eps: one or several radii, numbers or texts such as "8/255".
        limit: use only the first so many test images; None uses all.
        budget: forwards and backwards that an attack may spend on an image at most; None for no limit. Columns say so:
            "autoattack (at most 500 passes)".
        until_half_width: use only as many of the first images as it takes until the 95 % interval of every row's
            worst_case is that narrow, in percent points to each side; None uses all.
        targets: "least-likely", "random" or "next": the attacks are targeted; None for untargeted attacks.
        seed: seed of all random numbers of the attacks.
        batch_size: largest number of images processed at once; for attacks of other packages their batch size.
        device: "cpu", "cuda", "mps" or "xpu"; None or "auto" takes a CUDA GPU if there is one.
        corruptions: "none", "auto", "regenerated", "cifar10-c" or "cifar100-c".
        corruption_types: "benchmark" (15, whose mean is reported), "all" (19), or names.
        data_root: folder in which official corrupted images are looked for.
        engine: "own", or "reference" for the same attacks of torchattacks and pyautoattack.
        precision: of the searches: "32", "tf32", "bf16" or "auto". Verdicts are always the model's own; columns of a
            search of lower precision say so: "autoattack (bf16 search)".
        save_adversarials: store the adversarial image of every misclassified sample, which ``verify`` checks. Where
            verdicts exist already, the same search is repeated for its images.
        sanity: make the measurements that most flags rest on.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    attacks: str = "all"
    norm: str = "linf"
    eps: tuple[str | int | float, ...] = ("8/255",)
    limit: int | None = None
    budget: int | None = None
    until_half_width: float | None = None
    targets: str | None = None
    seed: int = 0
    batch_size: int | None = None
    device: str | None = None
    corruptions: str = "none"
    corruption_types: str | tuple[str, ...] = "benchmark"
    data_root: Path | None = None
    engine: str = "own"
    precision: str = FLOAT32
    save_adversarials: bool = False
    sanity: bool = True

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Build a configuration.

        Raises:
            AdvdpnpError: an option is unknown, has a wrong type or is out of range; one sentence.
        """
        try:
            return cls(**options)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "an option"
            raise AdvdpnpError(
                f"{name} cannot be {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"
            ) from None

    @field_validator("eps", mode="before")
    @classmethod
    def _eps_to_tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value

    @field_validator("corruption_types", mode="before")
    @classmethod
    def _types_to_tuple(cls, value: object) -> object:
        if isinstance(value, str):
            return value
        if not isinstance(value, Sequence) or not all(isinstance(name, str) for name in value):
            raise AdvdpnpError(f"corruption types cannot be {value!r}; give benchmark, all, or names")
        return tuple(value)

    @field_validator("precision")
    @classmethod
    def _as_precision(cls, value: str) -> str:
        return as_precision(value)

    @field_validator("device", mode="before")
    @classmethod
    def _to_text(cls, value: object) -> object:
        return str(value) if isinstance(value, torch.device) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 <= self.seed < 2**63:
            raise AdvdpnpError(f"the seed {self.seed} is out of range; choose one from 0 to {2**63 - 1}")
        if self.corruptions == "none" and self.corruption_types != "benchmark":
            raise AdvdpnpError("corruption types are chosen, but no corruptions; add --corruptions auto")
        check_batch_size(self.batch_size)
        if self.limit is not None and self.limit < 1:
            raise AdvdpnpError(f"a limit of {self.limit} leaves no image; give 1 or more")
        check_budget(self.budget)
        if self.until_half_width is not None and not 0 < self.until_half_width < 50:
            raise AdvdpnpError(
                f"an interval of {self.until_half_width} points to each side is out of range; give more than 0 and "
                "less than 50, for example 2"
            )
        if self.targets is not None:
            Targeted(self.targets)
        if self.targets == "labels":
            raise AdvdpnpError("targets that are given themselves are an option of advdpnp.attack and advdpnp.evaluate")
        if not self.threats:
            raise AdvdpnpError("there is no eps; give one, for example 8/255")
        return self

    @property
    def threats(self) -> tuple[ThreatModel, ...]:
        """The threat models, each radius once."""
        parsed = [ThreatModel.parse(self.norm, radius) for radius in self.eps]
        return tuple({threat.eps: threat for threat in parsed}.values())


def check_batch_size(size: int | None) -> None:
    """Check that a batch has an image; None is a default.

    Raises:
        AdvdpnpError: it has none.
    """
    if size is not None and size < 1:
        raise AdvdpnpError(f"a batch size of {size} leaves no image; give 1 or more")
