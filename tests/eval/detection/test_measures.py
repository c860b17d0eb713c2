"""Measures against scikit-learn, intervals and thresholds against what they promise."""

import numpy as np
import pytest
from sklearn import metrics

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.detection.measures import roc_curve, separation, threshold_of


def scores(seed: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    positives, negatives = generator.normal(0.7, 1, 83), generator.normal(0, 1, 121)
    if kind == "ties":
        return np.round(positives), np.round(negatives)
    if kind == "constant":
        return np.zeros(7), np.zeros(9)
    return positives, negatives


@pytest.mark.parametrize("kind", ["distinct", "ties", "constant"])
@pytest.mark.parametrize("seed", range(5))
def test_measures_are_those_of_scikit_learn(kind, seed):
    positives, negatives = scores(seed, kind)
    labels = np.r_[np.ones(len(positives)), np.zeros(len(negatives))]
    together = np.r_[positives, negatives]
    found = separation(positives, negatives, seed=0, resamples=10)
    assert found.auroc.value == pytest.approx(metrics.roc_auc_score(labels, together))
    assert found.aupr.value == pytest.approx(metrics.average_precision_score(labels, together))
    false, true, _ = metrics.roc_curve(labels, together, drop_intermediate=False)
    assert found.fpr95.value == pytest.approx(false[np.argmax(true >= 0.95)])
    ours = roc_curve(positives, negatives)
    np.testing.assert_allclose(ours, (false, true))


def test_the_bootstrap_is_that_of_resampled_images():
    positives, negatives = scores(1, "ties")
    found = separation(positives, negatives, seed=3, resamples=400).auroc.interval
    generator = np.random.default_rng(4)
    naive = []
    for _ in range(400):
        p, n = generator.choice(positives, len(positives)), generator.choice(negatives, len(negatives))
        naive.append(metrics.roc_auc_score(np.r_[np.ones(len(p)), np.zeros(len(n))], np.r_[p, n]))
    assert found.low == pytest.approx(np.quantile(naive, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(naive, 0.975), abs=0.02)
    assert found == separation(positives, negatives, seed=3, resamples=400).auroc.interval


def test_intervals_cover_the_true_value():
    from scipy.stats import norm

    generator, truth = np.random.default_rng(0), norm.cdf(0.7 / 2**0.5)
    covered = 0
    for trial in range(100):
        interval = separation(generator.normal(0.7, 1, 60), generator.normal(0, 1, 60), seed=trial, resamples=200)
        covered += interval.auroc.interval.low <= truth <= interval.auroc.interval.high
    assert covered >= 86  # of 95 expected; 4 standard deviations below


@pytest.mark.parametrize(
    ("positives", "negatives", "said"),
    [
        ([], [1.0], "there are no images to detect"),
        ([1.0], [], "there are no clean images"),
        ([np.nan], [1.0], "some scores are NaN"),
        ([1.0], [0.0, np.nan], "some scores are NaN"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(positives, negatives, said):
    with pytest.raises(AdvdpnpError, match=said):
        separation(np.array(positives), np.array(negatives), seed=0)


def test_infinite_scores_are_the_largest():
    assert separation(np.array([np.inf, 2.0]), np.array([1.0, -np.inf]), seed=0).auroc.value == 1


def test_the_threshold_keeps_its_promise_on_new_images():
    generator = np.random.default_rng(0)
    rates = []
    for _ in range(500):
        drawn = generator.normal(size=59)
        rates.append((generator.normal(size=1000) > threshold_of(drawn, 0.05)).mean())
    assert np.mean(rates) <= 0.05 + 0.003
    assert np.mean(rates) == pytest.approx(1 - 57 / 60, abs=0.005)


def test_the_threshold_is_an_order_statistic():
    assert threshold_of(np.arange(99.0)[::-1], 0.05) == 94  # the 95th smallest
    assert threshold_of(np.arange(19.0), 0.05) == 18
    with pytest.raises(AdvdpnpError, match="18 held-out images are too few for 5 % false alarms; hold out at least 19"):
        threshold_of(np.arange(18.0), 0.05)
    with pytest.raises(AdvdpnpError, match="NaN"):
        threshold_of(np.array([np.nan] * 30), 0.05)
