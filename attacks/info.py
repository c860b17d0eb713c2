"""Description of an attack for tables, flags and comparisons: family, loss, steps, cost and stages.

These must not parse names: "pgd-20", "pgd-20 (bf16 search)" and "torchattacks:PGD-20" are one attack under three names.
The description is derived from the definition that every verdict stores, so old verdicts have it too. It does not
determine the search, so it is part of no hash.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from advdpnp.base.errors import AdvdpnpError

UNKNOWN_COST = 5_000
"""Cost rank of an unknown attack: after the usual single attacks, before AutoAttack."""


@dataclass(frozen=True)
class AttackInfo:
    """Properties of an attack. The defaults mean unknown.

    Attributes:
        family: the algorithm: "fgsm" (one step of eps), "pgd", "apgd", "malt", "pma", "fab", "square", "cw-l2",
            "transfer"; "" if unknown. Attacks of one family and one loss differ in strength only by their steps.
        loss: loss that the attack maximises: "ce", "margin", "margin-targeted", "dlr", "dlr-targeted",
            "probability-margin"; "" if unknown.
        steps: steps (Square: queries) of one run; 0 if unknown.
        uses_gradients: whether it uses gradients of the evaluated model; None if unknown.
        cost_rank: approximate number of model evaluations (forwards and backwards) of a sample that survives. Columns
            are ordered by it.
        minimum_norm: whether it searches for the nearest adversarial image at any distance; None if unknown.
        judges_last_image: whether the stored margin of a surviving sample is that of the last image of the search. It
            is that of the clean image if the search returns to it (FAB) or the package does not return its last image.
        float32_search: whether the search computes in float32. In lower precision a search claims false successes.
        budget: forwards and backwards at which the search of an image was stopped; 0 for none.
        targets: rule that chooses the targets of a targeted attack ("least-likely"); "" for an untargeted one.
        stages: stages of an ensemble; empty for a single search.
    """

    family: str = ""
    loss: str = ""
    steps: int = 0
    uses_gradients: bool | None = None
    cost_rank: int = UNKNOWN_COST
    minimum_norm: bool | None = None
    judges_last_image: bool = True
    float32_search: bool = True
    budget: int = 0
    targets: str = ""
    stages: tuple["AttackInfo", ...] = ()

    @property
    def evaluations(self) -> int | None:
        """Evaluations (forwards and backwards) of a sample that survives, nearly exactly; None if unknown."""
        if self.stages:
            return self.cost_rank if all(stage.evaluations for stage in self.stages) else None
        return self.cost_rank if self.steps or self.cost_rank != UNKNOWN_COST else None

    @property
    def standard_autoattack(self) -> bool:
        """Whether the stages are those of the published AutoAttack, in order and with all steps."""
        return self._kinds == _STANDARD

    @property
    def few_classes_autoattack(self) -> bool:
        """Whether the stages are those of AutoAttack without the targeted DLR stage, for 2 or 3 classes."""
        return self._kinds == tuple(kind for kind in _STANDARD if kind[1] != "dlr-targeted")

    @property
    def searches_blindly(self) -> bool:
        """Whether it is a black-box search: it uses the logits of the evaluated model but no gradients."""
        return self.uses_gradients is False and self.family != "transfer"

    @property
    def _kinds(self) -> tuple[tuple[str, str, int], ...]:
        return () if self.budget else tuple((stage.family, stage.loss, stage.steps) for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """JSON for the metadata of verdicts."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "AttackInfo":
        """Inverse of ``to_json``.

        A missing field, or one of the wrong type, gets its default. Unknown fields are ignored.
        """
        empty = cls()
        known: dict[str, Any] = {}
        for field in fields(cls):
            stored, default = value.get(field.name), getattr(empty, field.name)
            if field.name == "stages":
                stages = stored if isinstance(stored, list | tuple) else ()
                read = [cls.from_json({**stage, "stages": ()}) for stage in stages if isinstance(stage, Mapping)]
                known["stages"] = tuple(read)  # stages are not nested
            elif type(stored) is (bool if default is None else type(default)):
                known[field.name] = stored
        return cls(**known)


_STANDARD = (("apgd", "ce", 100), ("apgd", "dlr-targeted", 100), ("fab", "", 100), ("square", "margin", 5_000))
"""Family, loss and steps of AutoAttack's stages (Croce and Hein 2020)."""


def info_of(identity: Mapping[str, Any], declared: Mapping[str, Any] | AttackInfo | None = None) -> AttackInfo:
    """Description of the attack of a verdict.

    Args:
        identity: the hashed fields of the verdict: "attack" is the definition of the attack, "precision" and "budget"
            those of the search.
        declared: the description that the attack declares, if any. It replaces the derived one.
    """
    definition = identity.get("attack")
    if declared is None:
        info = _derive(definition) if isinstance(definition, Mapping) else AttackInfo()
    else:
        info = declared if isinstance(declared, AttackInfo) else AttackInfo.from_json(declared)
    info = replace(info, float32_search=identity.get("precision", "float32") == "float32")
    budget = _count(identity, "budget")
    # How many of its steps a search got to make is unknown, so it is compared with no other by its steps.
    return replace(info, budget=budget, cost_rank=min(budget, info.cost_rank), steps=0) if budget else info


def describe(attack: Any) -> AttackInfo:
    """Description of an attack: its attribute ``info`` if it has one, else derived from its definition.

    Whether it is a minimum-norm attack is what its own attribute says, which the search follows.

    Raises:
        AdvdpnpError: ``info`` is not an AttackInfo.
    """
    info = info_of({"attack": attack.definition()}, declared_info(attack))
    nearest = getattr(attack, "minimum_norm", None)
    return replace(info, minimum_norm=nearest) if isinstance(nearest, bool) else info


def declared_info(attack: Any) -> AttackInfo | None:
    """The attribute ``info`` of an attack; None if it has none.

    Raises:
        AdvdpnpError: ``info`` is not an AttackInfo.
    """
    declared = getattr(attack, "info", None)
    if declared is not None and not isinstance(declared, AttackInfo):
        raise AdvdpnpError(
            f"the info of the attack '{attack.name}' is a {type(declared).__name__}; it must be an "
            "advdpnp.attacks.AttackInfo"
        )
    return declared


def untold_info(attack: Any) -> AttackInfo | None:
    """The description of an attack where its definition does not tell it; None where it does.

    Raises:
        AdvdpnpError: ``info`` is not an AttackInfo.
    """
    found = describe(attack)
    return None if found == info_of({"attack": attack.definition()}) else found


def by_cost(infos: Mapping[str, AttackInfo]) -> list[str]:
    """Labels from cheap to expensive. Ties are in natural order, so that pgd-5 precedes pgd-40."""
    return sorted(infos, key=lambda label: (infos[label].cost_rank, _natural(label)))


def _natural(text: str) -> list[tuple[int, int | str]]:
    """Key for natural order."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part]


def _derive(definition: Mapping[str, Any]) -> AttackInfo:
    package = definition.get("package")
    if package == "torchattacks":
        return _of_torchattacks(definition)
    if isinstance(minimum_norm := definition.get("minimum_norm"), bool):  # an attack of another library
        return AttackInfo(minimum_norm=minimum_norm, judges_last_image=False)
    stages = definition.get("stages")
    if isinstance(stages, list):
        if package == "pyautoattack":
            stages = [_package_stage(str(stage), definition) for stage in stages]
        info = _in_stages(_derive(stage) for stage in stages if isinstance(stage, Mapping))
        return replace(info, judges_last_image=info.judges_last_image and package is None)
    derive = _FAMILIES.get(str(definition.get("attack")))
    info = AttackInfo() if derive is None else derive(definition)
    cost = info.cost_rank * _count(definition, "gradients_averaged", 1)
    targets = definition.get("targets", "")
    return replace(info, cost_rank=cost or UNKNOWN_COST, targets=targets if isinstance(targets, str) else "labels")


def _in_stages(infos: Iterable[AttackInfo]) -> AttackInfo:
    stages = tuple(infos)
    if len(stages) == 1:
        return stages[0]
    gradients = {stage.uses_gradients for stage in stages}
    return AttackInfo(
        uses_gradients=True if True in gradients else False if gradients == {False} else None,
        cost_rank=sum(stage.cost_rank for stage in stages) or UNKNOWN_COST,
        minimum_norm=False,
        judges_last_image=bool(stages) and stages[-1].judges_last_image,
        stages=stages,
    )


def _pgd(definition: Mapping[str, Any]) -> AttackInfo:
    steps = _count(definition, "steps")
    family = "fgsm" if steps == 1 and definition.get("random_start") is False else "pgd"
    cost = 2 * steps * _count(definition, "restarts", 1)
    return AttackInfo(family, str(definition.get("objective", "")), steps, True, cost, minimum_norm=False)


def _apgd(definition: Mapping[str, Any]) -> AttackInfo:
    steps, family = _count(definition, "iterations"), str(definition.get("order", "apgd"))
    cost = 2 * steps * _count(definition, "runs", 1) + 2 * _count(definition, "candidates")
    return AttackInfo(family, str(definition.get("objective", "")), steps, True, cost, minimum_norm=False)


def _pma(definition: Mapping[str, Any]) -> AttackInfo:
    steps = _count(definition, "steps")
    cost = 2 * steps * _count(definition, "restarts", 1)
    return AttackInfo("pma", "probability-margin", steps, True, cost, minimum_norm=False)


def _fab(definition: Mapping[str, Any]) -> AttackInfo:
    steps = _count(definition, "iterations")
    cost = 3 * steps * _count(definition, "runs", 1)  # per step: forward and backward, then a forward on the new image
    return AttackInfo("fab", "", steps, True, cost, minimum_norm=False, judges_last_image=False)


def _square(definition: Mapping[str, Any]) -> AttackInfo:
    queries = _count(definition, "queries")
    return AttackInfo("square", "margin", queries, False, queries, minimum_norm=False)


def _cw_l2(definition: Mapping[str, Any]) -> AttackInfo:
    steps = _count(definition, "iterations")
    cost = 2 * steps * _count(definition, "searches", 1)
    return AttackInfo("cw-l2", "margin", steps, True, cost, minimum_norm=True)


def _transfer(definition: Mapping[str, Any]) -> AttackInfo:
    made = definition.get("pgd")
    cost = _pgd(made).cost_rank if isinstance(made, Mapping) else 0
    return AttackInfo("transfer", uses_gradients=False, cost_rank=cost + 2, minimum_norm=False)


_FAMILIES: dict[str, Callable[[Mapping[str, Any]], AttackInfo]] = {
    "pgd": _pgd, "apgd": _apgd, "pma": _pma, "fab-t": _fab, "square": _square, "cw-l2": _cw_l2, "transfer": _transfer,
}  # fmt: skip
"""Functions by the field "attack" of our definitions."""


def _package_stage(stage: str, definition: Mapping[str, Any]) -> dict[str, Any]:
    """Definition of our attack that corresponds to a stage of pyautoattack; empty if unknown."""
    targets = min(9, _count(definition, "classes", 10) - 1)
    return {
        "apgd-ce": {"attack": "apgd", "objective": "ce", "iterations": 100},
        "apgd-t": {"attack": "apgd", "objective": "dlr-targeted", "iterations": 100, "runs": targets},
        "fab-t": {"attack": "fab-t", "iterations": 100, "runs": targets},
        "square": {"attack": "square", "queries": 5_000},
    }.get(stage, {})


_TORCHATTACKS = {
    "FGSM": ("fgsm", 1), "FFGSM": ("fgsm", 1), "RFGSM": ("pgd", 10), "BIM": ("pgd", 10), "PGD": ("pgd", 10),
    "PGDL2": ("pgd", 10), "APGD": ("apgd", 10),
}  # fmt: skip
"""Family and default steps of the torchattacks classes that maximise the cross-entropy. The other classes differ from
our attacks in steps, scale or loss, so they count as unknown."""


def _of_torchattacks(definition: Mapping[str, Any]) -> AttackInfo:
    name = str(definition.get("attack")).removeprefix("torchattacks:")
    name = name if name in _TORCHATTACKS else name.rpartition("-")[0]  # the name may end in a number of steps: "PGD-20"
    arguments = definition.get("arguments")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    minimum_norm = not {"eps", "max_epsilon", "pixels"} & set(arguments)
    if name not in _TORCHATTACKS:
        return AttackInfo(minimum_norm=minimum_norm)
    family, steps = _TORCHATTACKS[name]
    steps = _count(arguments, "steps", steps)
    return AttackInfo(family, "ce", steps, True, 2 * steps, minimum_norm)


def _count(definition: Mapping[str, Any], name: str, default: int = 0) -> int:
    value = definition.get(name, default)
    return value if isinstance(value, int) and value >= 0 else default
