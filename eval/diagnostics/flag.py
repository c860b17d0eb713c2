"""A raised flag, and what the checks that raise flags share."""

from typing import Any, NamedTuple

import numpy as np

from advdpnp.base.statistics import mcnemar

SIGNIFICANCE = 0.01
"""Level of the exact McNemar test, for every flag that compares two attacks."""


class Flag(NamedTuple):
    """A raised flag: a code of ``FLAGS``, and what was seen ("fgsm 12.00 % < pgd-20 31.00 %")."""

    code: str
    seen: str


def more(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether significantly more samples are in ``a`` than in ``b``, by the exact McNemar test."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return only_a > only_b and mcnemar(only_a, only_b) < SIGNIFICANCE


def which_right(found: dict[str, Any]) -> dict[str, np.ndarray]:
    """The digits of a measurement as bool arrays."""
    return {name: np.array([each == "1" for each in text]) for name, text in found.get("right", {}).items()}


def percent(which: np.ndarray) -> str:
    return f"{100 * which.mean():.2f} %"
