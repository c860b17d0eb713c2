"""Signs, in the verdicts themselves, that a robustness number cannot be trusted."""

import itertools
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from advdpnp.eval.results import Row
from advdpnp.statistics import mcnemar

FLAGS = {
    "order": "an attack that should be stronger left significantly more samples robust than a weaker one",
    "zero-gradient": "more than 5 % of the attacked samples had an exactly zero first gradient: gradients are masked",
    "randomised": "the model answers differently when asked again: each verdict is the majority of 20 seeded draws",
    "batch-dependent": "what the model says of an image depends on the images beside it: verdicts hold for one batch",
    "ce-margin-gap": "cross-entropy and margin attacks differ by more than 5 points: one loss is masked",
    "few-classes": "fewer than 4 classes: the standard AutoAttack needs 4, a variant without its DLR loss ran instead",
}

SIGNIFICANCE = 0.01
ZERO_GRADIENT_SHARE = 0.05
GAP_POINTS = 0.05


class Flag(NamedTuple):
    """A raised flag: a code of ``FLAGS``, and what was seen ("fgsm 12.00 % < pgd-20 31.00 %")."""

    code: str
    seen: str


def raised_flags(row: Row) -> list[Flag]:
    """All flags of a row, in the order of ``FLAGS``."""
    return [flag for check in _CHECKS for flag in check(row)]


def _order(row: Row) -> Iterator[Flag]:
    for weaker, stronger in itertools.permutations(row.attacks, 2):
        if not _should_be_weaker(weaker, stronger):
            continue
        a, b = row.broken(weaker), row.broken(stronger)
        only_weaker, only_stronger = int((a & ~b).sum()), int((b & ~a).sum())
        if only_weaker > only_stronger and mcnemar(only_weaker, only_stronger) < SIGNIFICANCE:
            yield Flag("order", f"{weaker} leaves {_percent(~a)}, {stronger} {_percent(~b)}")


def _zero_gradient(row: Row) -> Iterator[Flag]:
    for attack, unit in row.attacks.items():
        if _objective(unit.info) != "ce":
            continue
        verdicts = row.verdict_rows(attack)
        asked = verdicts["backwards"].to_numpy() > 0  # clean mistakes end before the first gradient
        zero = verdicts["zero_gradient"].to_numpy()[asked]
        if len(zero) and zero.mean() > ZERO_GRADIENT_SHARE:
            yield Flag("zero-gradient", f"{attack}: {_percent(zero)} of the attacked samples")


def _batch_dependent(row: Row) -> Iterator[Flag]:
    if any(unit.info.get("batch_dependent") for unit in (row.clean, *row.attacks.values())):
        yield Flag("batch-dependent", "the same images in other company got other logits")


def _randomised(row: Row) -> Iterator[Flag]:
    if any(unit.info.get("randomised") for unit in (row.clean, *row.attacks.values())):
        yield Flag("randomised", "repeated predictions differ")


def _ce_margin_gap(row: Row) -> Iterator[Flag]:
    longest = max((a for a in row.attacks if _steps(a) is not None), key=lambda a: _steps(a) or 0, default=None)
    if longest is None or "cw" not in row.attacks or not row.n:
        return
    ce, margin = row.broken(longest), row.broken("cw")
    gap = abs(ce.mean() - margin.mean())
    if gap > GAP_POINTS and mcnemar(int((ce & ~margin).sum()), int((margin & ~ce).sum())) < SIGNIFICANCE:
        yield Flag("ce-margin-gap", f"{longest} leaves {_percent(~ce)}, cw {_percent(~margin)}")


def _few_classes(row: Row) -> Iterator[Flag]:
    if "autoattack-few-classes" in row.attacks:
        yield Flag("few-classes", "autoattack-few-classes ran")


_CHECKS: tuple[Callable[[Row], Iterator[Flag]], ...] = (
    _order,
    _zero_gradient,
    _randomised,
    _batch_dependent,
    _ce_margin_gap,
    _few_classes,
)


def _should_be_weaker(a: str, b: str) -> bool:
    """Whether attack ``a`` must not break more than ``b``, up to chance. A partial order: PGD and C&W have none.

    Minimum-norm searches and attacks of other packages promise nothing, but AutoAttack claims to beat them all.
    """
    if b in ("autoattack", "autoattack-few-classes"):
        return a != b
    if a == "fgsm":
        return b == "cw" or _steps(b) is not None
    steps_a, steps_b = _steps(a), _steps(b)
    return steps_a is not None and steps_b is not None and steps_a < steps_b


def _steps(attack: str) -> int | None:
    match = re.fullmatch(r"pgd-(\d+)", attack)
    return int(match[1]) if match else None


def _objective(info: dict[str, object]) -> str | None:
    identity = info["identity"]
    attack = identity.get("attack") if isinstance(identity, dict) else None
    return attack.get("objective") if isinstance(attack, dict) else None


def _percent(which: np.ndarray) -> str:
    return f"{100 * which.mean():.2f} %"
