import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit
from scipy.stats import binomtest

from rlff_lightning.errors import UserError
from rlff_lightning.functional.intervals import mean_interval, student_quantile, wilson_interval


def test_wilson_interval_of_half_the_trials_is_symmetric() -> None:
    # p = 1/2, n = 4, z = 1.959964: the middle is 1/2 and
    # the reach z sqrt(1/16 + z^2/64) / (1 + z^2/4) = 1.9600 * 0.3500 / 1.9604 = 0.3499.
    low, high = wilson_interval(2, 4)
    assert low == pytest.approx(0.15004, abs=1e-4)
    assert high == pytest.approx(0.84996, abs=1e-4)


@given(st.integers(1, 300), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_interval_equals_scipy(trials: int, data: st.DataObject, confidence: float) -> None:
    successes = data.draw(st.integers(0, trials))
    expected = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, trials, confidence) == pytest.approx(
        (expected.low, expected.high), abs=1e-9
    )


def test_wilson_interval_without_trials_is_everything() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_wilson_interval_never_leaves_zero_to_one() -> None:
    assert wilson_interval(0, 7).low == 0.0
    assert wilson_interval(7, 7).high == 1.0


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 17, 64, 999, 1000, 1001, 10**6])
@pytest.mark.parametrize("probability", [0.5, 0.75, 0.975, 0.9995])
def test_student_quantile_equals_scipy(probability: float, degrees: int) -> None:
    assert student_quantile(probability, degrees) == pytest.approx(
        float(stdtrit(degrees, probability)), rel=1e-9, abs=1e-9
    )


def test_mean_interval_of_one_two_three_reaches_2_484_each_way() -> None:
    # mean 2, s = 1, t(0.975; 2) = 4.30265, reach 4.30265 / sqrt(3) = 2.48414.
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)


def test_mean_interval_of_a_single_value_is_unbounded() -> None:
    assert mean_interval([3.0]) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("successes", "trials", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)]
)
def test_impossible_counts_and_confidences_are_refused(
    successes: int, trials: int, confidence: float
) -> None:
    with pytest.raises(UserError, match="must be"):
        wilson_interval(successes, trials, confidence)
