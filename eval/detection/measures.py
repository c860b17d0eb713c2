"""What a score is worth: AUROC, AUPR, the false positive rate at 95 % true positives, and a threshold.

Positives are the images to detect, negatives the clean ones; a larger score says positive. Ties count as in
scikit-learn: half for the AUROC, all at once for the curves.
"""

import math
from dataclasses import dataclass

import numpy as np

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.statistics import Interval

RECALL = 0.95
"""Share of positives that must be found for the false positive rate."""
RESAMPLES = 1000
_AT_ONCE = 2**22  # counts in memory


@dataclass(frozen=True)
class Measure:
    """A value in [0, 1] with its 95 % bootstrap interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Separation:
    """How well a score separates positives from negatives.

    Attributes:
        auroc: probability that a positive has a larger score than a negative, ties half.
        aupr: average precision; it depends on the share of positives.
        fpr95: share of negatives above the threshold that finds 95 % of the positives.
    """

    auroc: Measure
    aupr: Measure
    fpr95: Measure


def separation(positives: np.ndarray, negatives: np.ndarray, *, seed: int, resamples: int = RESAMPLES) -> Separation:
    """Measure a score on two sets of images.

    Intervals are percentiles of a bootstrap over images, within each set. Where all positives are above all negatives,
    every resample is too, and the interval has no width.

    Args:
        positives, negatives: scores, (n,) and (m,).
        seed: seed of the bootstrap.
        resamples: number of bootstrap samples.

    Raises:
        AdvdpnpError: a set is empty, or a score is NaN.
    """
    counts = _TieCounts.of(positives, negatives)
    estimates = counts.measures(np.ones((1, len(positives))), np.ones((1, len(negatives))))[0]
    generator, drawn = np.random.default_rng(seed), []
    block = max(1, _AT_ONCE // (len(positives) + len(negatives)))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn.append(counts.measures(*(_resampled(generator, rows, len(side)) for side in (positives, negatives))))
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975], axis=0)
    return Separation(
        *(Measure(float(v), Interval(float(a), float(b))) for v, a, b in zip(estimates, low, high, strict=True))
    )


def roc_curve(positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates from (0, 0) to (1, 1), one point per distinct score.

    Raises:
        AdvdpnpError: as ``separation``.
    """
    counts = _TieCounts.of(positives, negatives)
    true, false = counts.cumulative(np.ones((1, len(positives))), np.ones((1, len(negatives))))
    return np.append(0.0, false[0] / len(negatives)), np.append(0.0, true[0] / len(positives))


def threshold_of(held_out: np.ndarray, false_alarms: float) -> float:
    """The threshold above which at most a share of clean images lies.

    It is the k-th smallest held-out score with k = ceil((n + 1)(1 - false_alarms)), as in split conformal prediction
    (Vovk et al., 2005): a new clean image exceeds it with a probability of at most ``false_alarms``.

    Args:
        held_out: scores of clean images that neither the training nor the test saw, (n,).
        false_alarms: share in (0, 1).

    Raises:
        AdvdpnpError: there are too few held-out images, or a score is NaN.
    """
    _refuse_nan(held_out)
    k = math.ceil((len(held_out) + 1) * (1 - false_alarms) - 1e-9)
    if k > len(held_out):
        raise AdvdpnpError(
            f"{len(held_out)} held-out images are too few for {100 * false_alarms:g} % false alarms; hold out at least "
            f"{math.ceil(1 / false_alarms - 1e-9) - 1}, or allow more false alarms"
        )
    return float(np.sort(held_out)[k - 1])


@dataclass(frozen=True)
class _TieCounts:
    """Positives and negatives by distinct score, the largest score first.

    Attributes:
        positive, negative: for each image, the index of its score, int64 (n,) and (m,).
        distinct: number of distinct scores.
    """

    positive: np.ndarray
    negative: np.ndarray
    distinct: int

    @classmethod
    def of(cls, positives: np.ndarray, negatives: np.ndarray) -> "_TieCounts":
        for side, what in ((positives, "images to detect"), (negatives, "clean images")):
            if not len(side):
                raise AdvdpnpError(f"there are no {what}, so nothing is separated; use more images, or other ones")
            _refuse_nan(side)
        values, index = np.unique(-np.concatenate([positives, negatives]), return_inverse=True)
        return cls(index[: len(positives)], index[len(positives) :], len(values))

    def cumulative(self, positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives at each distinct score, (rows, distinct), for weights (rows, n) and (rows, m)."""
        return self._sums(positives, self.positive), self._sums(negatives, self.negative)

    def measures(self, positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
        """AUROC, AUPR and FPR95 of each row of weights, (rows, 3)."""
        true, false = self.cumulative(positives, negatives)
        p, n = true[:, -1:], false[:, -1:]
        found, alarms = np.diff(true, axis=1, prepend=0), np.diff(false, axis=1, prepend=0)
        auroc = (alarms * (true - found / 2)).sum(1) / (p * n)[:, 0]
        aupr = (found * true / np.maximum(true + false, 1)).sum(1) / p[:, 0]
        first = (true >= RECALL * p - 1e-9).argmax(1)
        fpr = np.take_along_axis(false, first[:, None], 1)[:, 0] / n[:, 0]
        return np.stack([auroc, aupr, fpr], axis=1)

    def _sums(self, weights: np.ndarray, index: np.ndarray) -> np.ndarray:
        rows = len(weights)
        place = index[None] + self.distinct * np.arange(rows)[:, None]
        sums = np.bincount(place.ravel(), weights.ravel(), minlength=rows * self.distinct)
        return np.cumsum(sums.reshape(rows, self.distinct), axis=1)


def _resampled(generator: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """How often each of n images is drawn, (rows, n)."""
    return generator.multinomial(n, np.full(n, 1 / n), size=rows).astype(np.float64)


def _refuse_nan(scores: np.ndarray) -> None:
    if np.isnan(scores).any():
        raise AdvdpnpError("some scores are NaN; leave this score out with --scores")
