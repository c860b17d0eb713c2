"""What an attack is, for those who judge its numbers: its family, loss, steps, cost and stages.

Tables, flags and comparisons ask this and never the name: "pgd-20", "pgd-20 (bf16 search)" and "torchattacks:PGD-20"
are the same attack under three names. The info is derived from the definition that every verdict stores, so verdicts
that were written long ago have it too. It describes a search and never determines one: it is part of no hash.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from advdpnp.base.errors import AdvdpnpError

UNKNOWN_COST = 5_000
"""Rank of an attack that declares nothing: after the usual single attacks, before AutoAttack."""


@dataclass(frozen=True)
class AttackInfo:
    """What the judges of an attack need to know of it; the defaults claim nothing.

    Attributes:
        family: the algorithm: "fgsm" (one step of eps), "pgd", "apgd", "fab", "square", "cw-l2", "transfer"; "" if
            unknown. Two attacks of one family and one loss differ in strength by their steps alone.
        loss: what it maximises: "ce", "margin", "dlr", "dlr-targeted"; "" if unknown.
        steps: steps (Square: queries) of one run; 0 if unknown.
        uses_gradients: whether it differentiates the model that is judged; None if unknown.
        cost_rank: model evaluations (forwards and backwards) of a sample that nothing breaks, roughly. Columns go from
            cheap to expensive.
        minimum_norm: whether it looks for the nearest adversarial image, at whatever distance; None if unknown.
        judges_last_image: whether the margin stored for a sample that holds is that of the last image tried. It is that
            of the clean image where a search returns there (FAB) or a package does not hand out its last image.
        float32_search: whether the search computes in float32. A search in fewer bits claims too much.
        stages: of an attack that runs several searches one after the other; empty for a single search.
    """

    family: str = ""
    loss: str = ""
    steps: int = 0
    uses_gradients: bool | None = None
    cost_rank: int = UNKNOWN_COST
    minimum_norm: bool | None = None
    judges_last_image: bool = True
    float32_search: bool = True
    stages: tuple["AttackInfo", ...] = ()

    @property
    def standard_autoattack(self) -> bool:
        """Whether its stages are those of AutoAttack as published, in order and at full length."""
        return self._kinds == _STANDARD

    @property
    def few_classes_autoattack(self) -> bool:
        """Whether they are these without the targeted DLR stage, which 2 or 3 classes do not allow."""
        return self._kinds == tuple(kind for kind in _STANDARD if kind[1] != "dlr-targeted")

    @property
    def searches_blindly(self) -> bool:
        """Whether it is a search that asks the model for its answers alone."""
        return self.uses_gradients is False and self.family != "transfer"

    @property
    def _kinds(self) -> tuple[tuple[str, str, int], ...]:
        return tuple((stage.family, stage.loss, stage.steps) for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """As JSON, for the metadata of verdicts."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "AttackInfo":
        """Read ``to_json`` back; a field that is missing, unknown or of another type counts as not declared."""
        empty = cls()
        known: dict[str, Any] = {}
        for field in fields(cls):
            given, default = value.get(field.name), getattr(empty, field.name)
            if field.name == "stages":
                stages = given if isinstance(given, list | tuple) else ()
                read = [cls.from_json({**stage, "stages": ()}) for stage in stages if isinstance(stage, Mapping)]
                known["stages"] = tuple(read)  # stages have none of their own
            elif type(given) is (bool if default is None else type(default)):
                known[field.name] = given
        return cls(**known)


_STANDARD = (("apgd", "ce", 100), ("apgd", "dlr-targeted", 100), ("fab", "", 100), ("square", "margin", 5_000))
"""Family, loss and steps of AutoAttack's stages (Croce and Hein 2020)."""


def info_of(identity: Mapping[str, Any], declared: Mapping[str, Any] | AttackInfo | None = None) -> AttackInfo:
    """What the attack of a verdict is.

    Args:
        identity: everything that the verdict's hash is of: the attack's own definition under "attack", and the
            "precision" of the search.
        declared: what the attack says of itself, if it does; it stands in for what would be derived.
    """
    definition = identity.get("attack")
    if declared is None:
        info = _derive(definition) if isinstance(definition, Mapping) else AttackInfo()
    else:
        info = declared if isinstance(declared, AttackInfo) else AttackInfo.from_json(declared)
    return replace(info, float32_search=identity.get("precision", "float32") == "float32")


def describe(attack: Any) -> AttackInfo:
    """What an attack is: what its attribute ``info`` declares, else what its definition tells.

    Raises:
        AdvdpnpError: ``info`` is no AttackInfo.
    """
    return info_of({"attack": attack.definition()}, declared_info(attack))


def declared_info(attack: Any) -> AttackInfo | None:
    """What an attack's attribute ``info`` declares; None for an attack without one.

    Raises:
        AdvdpnpError: ``info`` is no AttackInfo.
    """
    declared = getattr(attack, "info", None)
    if declared is not None and not isinstance(declared, AttackInfo):
        raise AdvdpnpError(
            f"the attack '{attack.name}' declares an info of type {type(declared).__name__}; make it an "
            "advdpnp.attacks.AttackInfo"
        )
    return declared


def by_cost(infos: Mapping[str, AttackInfo]) -> list[str]:
    """Labels from cheap to expensive; those of equal cost by the words and numbers of their names."""
    return sorted(infos, key=lambda label: (infos[label].cost_rank, _natural(label)))


def _natural(text: str) -> list[tuple[int, int | str]]:
    """Sort key that puts pgd-5 before pgd-40."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part]


def _derive(definition: Mapping[str, Any]) -> AttackInfo:
    package = definition.get("package")
    if package == "torchattacks":
        return _of_torchattacks(definition)
    stages = definition.get("stages")
    if isinstance(stages, list):
        if package == "pyautoattack":
            stages = [_package_stage(str(stage), definition) for stage in stages]
        info = _in_stages(_derive(stage) for stage in stages if isinstance(stage, Mapping))
        return replace(info, judges_last_image=info.judges_last_image and package is None)
    derive = _FAMILIES.get(str(definition.get("attack")))
    info = AttackInfo() if derive is None else derive(definition)
    cost = info.cost_rank * _count(definition, "gradients_averaged", 1)
    return replace(info, cost_rank=cost or UNKNOWN_COST)


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
    steps = _count(definition, "iterations")
    cost = 2 * steps * _count(definition, "runs", 1)
    return AttackInfo("apgd", str(definition.get("objective", "")), steps, True, cost, minimum_norm=False)


def _fab(definition: Mapping[str, Any]) -> AttackInfo:
    steps = _count(definition, "iterations")
    cost = 3 * steps * _count(definition, "runs", 1)  # each step is differentiated, and its image judged
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
    "pgd": _pgd, "apgd": _apgd, "fab-t": _fab, "square": _square, "cw-l2": _cw_l2, "transfer": _transfer,
}  # fmt: skip
"""By the algorithm that a definition of our own attacks names."""


def _package_stage(stage: str, definition: Mapping[str, Any]) -> dict[str, Any]:
    """The definition of our own attack that a stage of pyautoattack is the counterpart of."""
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
"""Family and default steps of the classes of torchattacks that maximise the cross-entropy. Of the others too little is
known: their numbers of steps, scale or losses are not those of ours."""


def _of_torchattacks(definition: Mapping[str, Any]) -> AttackInfo:
    name = str(definition.get("attack")).removeprefix("torchattacks:")
    name = name if name in _TORCHATTACKS else name.rpartition("-")[0]  # "PGD-20" names its steps too
    arguments = definition.get("arguments")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    minimum_norm = not {"eps", "max_epsilon"} & set(arguments)
    if name not in _TORCHATTACKS:
        return AttackInfo(minimum_norm=minimum_norm)
    family, steps = _TORCHATTACKS[name]
    steps = _count(arguments, "steps", steps)
    return AttackInfo(family, "ce", steps, True, 2 * steps, minimum_norm)


def _count(definition: Mapping[str, Any], name: str, default: int = 0) -> int:
    value = definition.get(name, default)
    return value if isinstance(value, int) and value >= 0 else default
