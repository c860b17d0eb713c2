"""What was found about a claim, and how several findings make one verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["holds", "holds in part", "does not hold", "not decided", "not tested"]


@dataclass(frozen=True)
class Finding:
    """What one measurement says about a claim.

    Attributes:
        verdict: "holds in part" if the measurement has parts and one of them holds; "not decided" if the interval of
            the difference includes zero; "not tested" if nothing was measured.
        words: net, data, number of images, figures, interval and p, or why nothing was measured.
    """

    verdict: Verdict
    words: str


def together(findings: Sequence[Finding]) -> str:
    """One verdict for all findings; those that decide nothing do not count beside one that does."""
    decided = {each.verdict for each in findings} & {"holds", "holds in part", "does not hold"}
    if len(decided) > 1:
        return "holds in part"
    return next(iter(decided)) if decided else findings[0].verdict


MARGIN = 3.0  # points that a method may lose and still compete


def of_difference(difference: float, low: float, p: float, *, level: float, competes: bool) -> Verdict:
    """The verdict on "more than the rival", from a difference in favour of the claim and its p-value.

    Args:
        low: lower bound of the difference's 95 % interval.
        competes: the claim is only to compete with the rival: a loss of more than ``MARGIN`` points must be excluded.
    """
    if competes and low > -MARGIN:
        return "holds"
    if p < level:
        return "holds" if difference > 0 else "does not hold"
    return "not decided"


def p_text(p: float) -> str:
    """p as the tables show it."""
    return "p < .0001" if p < 0.0001 else f"p = {p:.4f}".replace("0.", ".")
