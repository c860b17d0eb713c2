"""The two statistics a robustness table needs: an interval for one accuracy, and a test for two on the same samples."""

import math
from typing import NamedTuple

Z_95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


class Interval(NamedTuple):
    """Bounds of a proportion, both in [0, 1]."""

    low: float
    high: float


def wilson(successes: float, n: int, z: float = Z_95) -> Interval:
    """Score interval of a proportion (Wilson, "Probable inference", JASA 1927); 95 % unless ``z`` says otherwise.

    Unlike the textbook interval it stays inside [0, 1] and keeps a width at 0 and 100 %, where accuracies under
    attack often are.

    Args:
        successes: how many of the ``n`` samples; a fraction is allowed where each sample counts for a mean.
        n: number of samples; 0 gives (0, 1), for nothing is known.

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
    # Rounding must not push the bound of a certain result past it.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high)


def mcnemar(b: int, c: int) -> float:
    """Two-sided p-value of the exact McNemar test (McNemar, Psychometrika 1947): paired results on one sample set.

    Args:
        b: samples on which only the first is "yes".
        c: samples on which only the second is "yes".

    Returns:
        Probability of a split at least as uneven as b : c if both are equally good.
    """
    if b < 0 or c < 0:
        raise ValueError(f"counts must not be negative, but are {b} and {c}")
    n = b + c
    if n == 0:
        return 1.0
    term = total = 1  # whole numbers: binomial coefficients and their sum, so that only the last division rounds
    for k in range(1, min(b, c) + 1):
        term = term * (n - k + 1) // k
        total += term
    return min(1.0, float(2 * total / 2 ** int(n)))
