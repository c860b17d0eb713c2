"""Statistics of robustness tables: confidence intervals, tests of differences, correction for multiple comparisons."""

import math
from collections.abc import Sequence
from typing import NamedTuple

SIGNIFICANT = 0.05
"""A difference is significant if its p-value is below this."""
Z_95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


class Interval(NamedTuple):
    """Bounds of a proportion, both in [0, 1], or of a difference."""

    low: float
    high: float


def wilson(successes: float, n: int, z: float = Z_95) -> Interval:
    """Score interval of a proportion (Wilson, "Probable inference", JASA 1927); 95 % unless ``z`` says otherwise.

    Unlike the normal approximation, it stays inside [0, 1] and has a positive width at 0 and 100 %, where accuracies
    under attack often are.

    Args:
        successes: number of successes; fractional if each sample contributes a mean.
        n: number of samples; 0 gives (0, 1).

    Raises:
        ValueError: ``successes`` is not in [0, n].
    """
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"successes must be in [0, n], but are {successes} of {n}")
    if n == 0:
        return Interval(0.0, 1.0)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and n the bound is exact, and rounding must not move it.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high)


def mcnemar(b: int, c: int) -> float:
    """Two-sided p-value of the exact McNemar test for paired binary results (McNemar, Psychometrika 1947).

    Args:
        b: samples on which only the first is "yes".
        c: samples on which only the second is "yes".

    Returns:
        Probability of a split at least as uneven as b : c if both are equally good.

    Raises:
        ValueError: a count is negative.
    """
    if b < 0 or c < 0:
        raise ValueError(f"counts must not be negative, but are {b} and {c}")
    from scipy.special import bdtr  # imported here to keep the import of this module fast

    return min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5)))


def paired_difference(both: int, first: int, second: int, neither: int) -> Interval:
    """95 % interval of the difference of two proportions on the same samples (Newcombe, Stat. Med. 1998, method 10).

    It combines two Wilson intervals and the correlation of the results. Its width is positive even if the two results
    agree on every sample.

    Args:
        both: samples on which both are "yes".
        first: samples on which only the first is "yes".
        second: samples on which only the second is "yes".
        neither: samples on which neither is "yes".

    Returns:
        Bounds of first minus second, in [-1, 1].

    Raises:
        ValueError: a count is negative, or all are 0.
    """
    n = both + first + second + neither
    if min(both, first, second, neither) < 0 or n == 0:
        raise ValueError(f"counts must not be negative nor all 0, but are {both}, {first}, {second} and {neither}")
    p, q = (both + first) / n, (both + second) / n
    a, b = wilson(both + first, n), wilson(both + second, n)
    below_a, above_a, below_b, above_b = p - a.low, a.high - p, q - b.low, b.high - q
    phi = _correlation(both, first, second, neither)
    low = math.sqrt(max(0.0, below_a**2 - 2 * phi * below_a * above_b + above_b**2))
    high = math.sqrt(max(0.0, above_a**2 - 2 * phi * above_a * below_b + below_b**2))
    return Interval(max(-1.0, p - q - low), min(1.0, p - q + high))


def _correlation(both: int, first: int, second: int, neither: int) -> float:
    """Phi of a 2 x 2 table, with Newcombe's continuity correction if it is positive; 0 if it is undefined."""
    product = (both + first) * (second + neither) * (both + second) * (first + neither)
    if product == 0:
        return 0.0
    excess, n = both * neither - first * second, both + first + second + neither
    return (max(excess - n / 2, 0.0) if excess > 0 else excess) / math.sqrt(product)


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected for multiple comparisons by the step-down method of Holm (Scand. J. Stat. 1979).

    Calling those below 5 % significant keeps the family-wise error rate below 5 %. NaN stays NaN and is not counted.
    """
    known = sorted((value, index) for index, value in enumerate(p) if not math.isnan(value))
    corrected, largest = [math.nan] * len(p), 0.0
    for rank, (value, index) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        corrected[index] = largest
    return corrected


class Difference(NamedTuple):
    """The difference of two means, its 95 % confidence interval, and the two-sided p-value of no difference."""

    value: float
    low: float
    high: float
    p: float


def welch(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Mean of ``a`` minus mean of ``b``, two samples of unequal variances (Welch, Biometrika 1947).

    Interval and p are NaN where nothing can be said: fewer than two values on a side, or no spread on either.
    """
    spread = [_squared_error(a), _squared_error(b)]
    freedom = [s**2 / (len(x) - 1) if len(x) > 1 else math.nan for s, x in zip(spread, (a, b), strict=True)]
    degrees = sum(spread) ** 2 / sum(freedom) if sum(freedom) else math.nan
    return _t_difference(_mean(a) - _mean(b), math.sqrt(sum(spread)), degrees)


def paired_t(differences: Sequence[float]) -> Difference:
    """Mean of differences of pairs with its t interval; NaN as in ``welch``."""
    return _t_difference(_mean(differences), math.sqrt(_squared_error(differences)), len(differences) - 1)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if len(values) else math.nan


def _squared_error(values: Sequence[float]) -> float:
    """Squared standard error of a mean; NaN for fewer than two values."""
    n, mean = len(values), _mean(values)
    if n > 1 and min(values) == max(values):
        return 0.0  # the mean of equal numbers may differ from them by a rounding
    return math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n if n > 1 else math.nan


def _t_difference(value: float, error: float, degrees: float) -> Difference:
    from scipy.special import stdtr, stdtrit  # here: importing it takes longer than all else of this module

    if not error > 0:
        return Difference(value, math.nan, math.nan, math.nan)
    half = float(stdtrit(degrees, 0.975)) * error
    return Difference(value, value - half, value + half, min(1.0, 2 * float(stdtr(degrees, -abs(value) / error))))
