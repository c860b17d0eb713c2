import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, multinomial, ttest_1samp, ttest_ind

from advdpnp.base.statistics import holm, mcnemar, paired_difference, paired_t, welch, wilson


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(case: tuple[int, int]) -> None:
    successes, n = case
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_at_the_ends_is_exact_and_keeps_a_width() -> None:
    assert wilson(0, 100) == pytest.approx((0.0, 0.036994), abs=1e-6)
    assert wilson(100, 100).high == 1.0
    assert wilson(0, 100).low == 0.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_refuses_impossible_counts() -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(5, 4)


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_agrees_with_exact_arithmetic(b: int, c: int) -> None:
    term = total = 1
    for i in range(min(b, c)):
        term = term * (b + c - i) // (i + 1)
        total += term
    assert mcnemar(b, c) == pytest.approx(min(1.0, 2 * total / 2 ** (b + c)), rel=1e-6, abs=1e-290)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(3, 3) == 1.0


def test_newcombes_interval_gives_the_published_numbers() -> None:
    """Airway hyper-responsiveness before and after transplantation (Bentur et al. 2009, in Fagerland et al. 2017)."""
    assert paired_difference(1, 1, 7, 12) == pytest.approx((-0.507, -0.026), abs=5e-4)


def test_newcombes_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Over all tables of 30 pairs, weighted by their probability under three truths."""
    n = 30
    for truth in ((0.4, 0.1, 0.1, 0.4), (0.6, 0.2, 0.05, 0.15), (0.1, 0.1, 0.02, 0.78)):
        difference, covered = truth[1] - truth[2], 0.0
        for first, second in itertools.product(range(n + 1), repeat=2):
            for both in range(n + 1 - first - second):
                table = (both, first, second, n - both - first - second)
                low, high = paired_difference(*table)
                if low <= difference <= high:
                    covered += float(multinomial.pmf(table, n, truth))
        assert 0.93 < covered < 0.99, truth


@given(st.tuples(*[st.integers(0, 500)] * 4).filter(any))
def test_newcombes_interval_is_around_the_difference_and_turns_with_it(table: tuple[int, int, int, int]) -> None:
    both, first, second, neither = table
    low, high = paired_difference(both, first, second, neither)
    assert -1 <= low <= (first - second) / sum(table) <= high <= 1
    assert low < high
    assert paired_difference(both, second, first, neither) == pytest.approx((-high, -low))


def test_newcombes_interval_refuses_impossible_counts() -> None:
    with pytest.raises(ValueError, match="counts"):
        paired_difference(0, 0, 0, 0)
    with pytest.raises(ValueError, match="counts"):
        paired_difference(3, -1, 0, 0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, math.nan, 0.6]) == pytest.approx([1, math.nan, 1], nan_ok=True)
    assert holm([]) == []


SAMPLE = st.lists(st.floats(0, 100).map(lambda value: round(value, 2)), min_size=2, max_size=6)


@given(SAMPLE, SAMPLE)
def test_welch_agrees_with_scipy(a: list[float], b: list[float]) -> None:
    found = welch(a, b)
    assert found.value == pytest.approx(np.mean(a) - np.mean(b), abs=1e-9)
    if len(set(a)) == len(set(b)) == 1:
        assert np.isnan(found[1:]).all()
        return
    expected = ttest_ind(a, b, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert found[1:] == pytest.approx((low, high, expected.pvalue), rel=1e-6, abs=1e-9)


@given(SAMPLE)
def test_the_paired_interval_agrees_with_scipy(differences: list[float]) -> None:
    if len(set(differences)) > 1:
        expected = ttest_1samp(differences, 0)
        low, high = expected.confidence_interval(0.95)
        assert paired_t(differences) == pytest.approx(
            (np.mean(differences), low, high, expected.pvalue), rel=1e-6, abs=1e-9
        )


def test_one_value_says_nothing_of_a_spread() -> None:
    assert welch([1.0], [2.0, 3.0]) == pytest.approx((-1.5, math.nan, math.nan, math.nan), nan_ok=True)
    assert math.isnan(welch([51.1] * 3, [49.3] * 3).p)
    assert paired_t([1.0]) == pytest.approx((1, math.nan, math.nan, math.nan), nan_ok=True)
