import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from advdpnp.statistics import mcnemar, wilson


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
def test_mcnemar_agrees_with_the_binomial_test(b: int, c: int) -> None:
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-6, abs=1e-290)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(3, 3) == 1.0
