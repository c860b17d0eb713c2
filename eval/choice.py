"""The attacks that a Python caller chooses, by names or as objects, and their threat models."""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from advdpnp.attacks.criteria import Targeted
from advdpnp.attacks.names import attack_names, check_attack, resolve_attacks, with_threat
from advdpnp.attacks.protocol import aim
from advdpnp.attacks.threat import DEFAULT_EPS, ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.arrays import Labels, check_kinds, to_labels
from advdpnp.models.loading import LoadedModel

NORM = "linf"
"""The norm where nobody names one."""

Eps = str | float


def default_threat(models: Iterable[object], norm: str | None = None) -> tuple[str, str]:
    """Norm and radius where the caller, or an attack object, leaves them out.

    They are those that all checkpoints among the models were trained with; without any, or where these differ, Linf and
    the usual radius of the norm (``DEFAULT_EPS``), which is also that of another norm than the trained one.

    Args:
        models: what ``load_model`` returned, or models of a caller's own, which say nothing.
        norm: the norm, if it is known.
    """
    checkpoints = [model for model in models if isinstance(model, LoadedModel) and model.header]
    trained = _agreed(checkpoints, "norm")
    norm = str(norm).strip().lower() if norm is not None else trained or NORM
    own = _agreed(checkpoints, "eps") if norm == trained else ""
    return norm, own or DEFAULT_EPS.get(norm, DEFAULT_EPS[NORM])


def _agreed(checkpoints: Iterable[LoadedModel], key: str) -> str:
    """A value of the training attack that all of them have; "" if there is none."""
    values = {str(each.recipe.get("attack", {}).get(key, "")) for each in checkpoints}
    return values.pop() if len(values) == 1 else ""


_LIBRARIES = {
    "torchattacks": "torchattacks", "foolbox": "foolbox", "art": "art", "adv_lib": "adv-lib",
    "pyautoattack": "pyautoattack", "autoattack": "pyautoattack",
}  # fmt: skip
"""Packages that attack objects come from, and what their names begin with."""

IN_THE_NAME = dict.fromkeys(
    ("steps", "iters", "iterations", "n_iter"), "write the number into the attack's name, for example pgd-3"
)
"""Options of other libraries that are a part of an attack's name here, and what is said of them."""


def criterion_for(targets: str | Labels, y: Tensor) -> Targeted:
    """What a caller's targets ask for: the name of a rule, or a class for each image, which is not its label.

    Args:
        y: labels, int64 (n,).

    Raises:
        AdvdpnpError: there is no such rule, or the targets do not fit the labels.
    """
    if isinstance(targets, str):
        if targets == "labels":
            raise AdvdpnpError("give the targets themselves, one for each image, not the text 'labels'")
        return Targeted(targets)
    chosen = to_labels(targets, "targets").to(y.device)
    if chosen.shape != y.shape:
        raise AdvdpnpError(f"there are {len(y)} images but {len(chosen)} targets; give one target per image")
    same = (chosen == y).nonzero()[:, 0].tolist()
    if same:
        raise AdvdpnpError(f"the target of {len(same)} images is their label (first: image {same[0]}); choose another")
    return Targeted.of(chosen.tolist())


def _name_in_library(attack: Any) -> str | None:
    """How an attack object, class or function of another library is named here; None for anything else."""
    kind = attack if inspect.isclass(attack) or inspect.isfunction(attack) else type(attack)
    library = _LIBRARIES.get(kind.__module__.partition(".")[0])
    if library is None or kind.__name__.startswith("_"):
        return None
    return library if library == "pyautoattack" else f"{library}:{kind.__name__}"


@dataclass(frozen=True)
class ChosenAttacks:
    """Names and objects.

    Attributes:
        text: the names of all, with commas; an object has its own.
        objects: the objects by name.
        criterion: targets that the caller gave; None for those of the attacks.
    """

    text: str
    objects: dict[str, Any] = field(default_factory=dict)
    criterion: Targeted | None = None

    @classmethod
    def of(cls, attacks: Any) -> "ChosenAttacks":
        """From a name, an object, a text with commas, or a list of names and objects.

        Raises:
            AdvdpnpError: it is something else, or two objects have one name.
        """
        listed = attacks if isinstance(attacks, list | tuple) else [attacks]
        objects: dict[str, Any] = {}
        for each in listed:
            if isinstance(each, str):
                continue
            if name := _name_in_library(each):
                raise AdvdpnpError(
                    f'an attack of another library is bound to its own model and settings; write its name, "{name}"'
                )
            if not isinstance(getattr(each, "threat", None), ThreatModel):
                raise AdvdpnpError(
                    f'attacks are a text, or a list of names such as ["fgsm", "pgd-20"] and of objects, not {attacks!r}'
                )
            check_attack(each.name, each)
            if each.name in objects:
                raise AdvdpnpError(f"two attacks are called '{each.name}'; give them different names")
            objects[each.name] = each
        return cls(",".join(each if isinstance(each, str) else each.name for each in listed), objects)

    def threat(self, eps: Any, norm: str | None, model: object) -> tuple[list[Eps], str]:
        """The radii and the norm.

        Args:
            eps: a radius or a list of them; None for that of the objects, or of ``default_threat``.
            norm: None for that of the objects, or of ``default_threat``.
            model: the model that is attacked.

        Raises:
            AdvdpnpError: there is none, one is neither number nor text, or the objects differ.
        """
        listed = list(eps) if isinstance(eps, list | tuple | np.ndarray) else [eps]
        if not listed:
            raise AdvdpnpError("there is no eps; give one, for example 8/255")
        threats = [each.threat for each in self.objects.values()]
        norm = self._shared("norm", [each.norm for each in threats]) if norm is None else norm
        norm, usual = default_threat([model], norm)
        own = (self._shared("eps", [each.text for each in threats]) or usual) if eps is None else ""
        radii = [own if eps is None else each for each in listed]
        for each in radii:
            check_kinds(eps=(each, (str, Real)))
        return radii, norm

    @staticmethod
    def _shared(what: str, values: Sequence[str]) -> str | None:
        if len(set(values)) > 1:
            raise AdvdpnpError(
                f"the attacks differ in their {what} ({', '.join(sorted(set(values)))}); give one {what}"
            )
        return values[0] if values else None

    def resolve(
        self, text: str | Sequence[str], threat: ThreatModel, classes: int, engine: str = "own"
    ) -> list[tuple[str, Any]]:
        """As ``advdpnp.attacks.resolve_attacks``, for names and objects; ``engine`` concerns the names."""
        attacks = self._resolve(text, threat, classes, engine)
        if self.criterion is None:
            return attacks
        return [(each.name, each) for each in (aim(attack, self.criterion) for _, attack in attacks)]

    def _resolve(
        self, text: str | Sequence[str], threat: ThreatModel, classes: int, engine: str
    ) -> list[tuple[str, Any]]:
        if not self.objects:
            return resolve_attacks(text, threat, classes, engine)
        found: dict[str, Any] = {}
        for name in attack_names(text, classes, norm=threat.norm):
            if name in self.objects:
                found[name] = with_threat(self.objects[name], threat)
            else:
                found |= dict(resolve_attacks([name], threat, classes, engine))
        return list(found.items())


def one_attack(
    attack: Any, eps: Any, norm: str | None, model: object, classes: int, criterion: Targeted | None = None
) -> list[Any]:
    """One attack under one or several threat models.

    Args:
        attack: a name or an object.
        eps, norm, model: as for ``ChosenAttacks.threat``.
        classes: number of classes of the model.
        criterion: targets to aim at.

    Raises:
        AdvdpnpError: it is unknown, several, or cannot be used so.
    """
    if isinstance(attack, list | tuple):
        raise AdvdpnpError("one attack is run at a time; for several use advdpnp.evaluate")
    chosen = ChosenAttacks.of(attack)
    attacks = []
    radii, norm = chosen.threat(eps, norm, model)
    for radius in radii:
        found = chosen.resolve(chosen.text, ThreatModel.parse(norm, radius), classes)
        if len(found) != 1:
            raise AdvdpnpError(f"'{attack}' is not one attack; name one of 'advdpnp list attacks'")
        attacks.append(found[0][1] if criterion is None else aim(found[0][1], criterion))
    return attacks
