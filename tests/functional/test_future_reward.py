import math
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.functional.future_reward import future_return, mean_and_standard_error

VALUES = st.lists(st.floats(-1, 1), min_size=1, max_size=8)
GAMMAS = st.floats(0.05, 1)


def test_discounted_return_weighs_the_near_future_more() -> None:
    # weights 1, 1/2, 1/4; (1 * 1 + 0.5 * -1 + 0.25 * 0.5) / 1.75 = 0.625 / 1.75 = 5/14
    assert future_return([1.0, -1.0, 0.5], gamma=0.5) == pytest.approx(5 / 14)


def test_undiscounted_return_is_the_mean() -> None:
    assert future_return([1.0, -0.5, 0.25]) == pytest.approx(0.25)


def test_terminal_return_is_the_last_value_and_max_the_highest() -> None:
    assert future_return([0.5, 1.0, -0.5], aggregate="terminal", gamma=0.5) == -0.5
    assert future_return([0.5, 1.0, -0.5], aggregate="max", gamma=0.5) == 1.0


def test_success_at_once_earns_the_whole_bonus_and_at_the_end_a_share_of_it() -> None:
    # H = 4: success at turn 1 earns 0.2 * 4/4, at turn 4 0.2 * 1/4
    bonus = {"success_bonus": 0.2, "horizon": 4}
    early = future_return([1.0], is_success=True, **bonus)
    late = future_return([0.5, 0.5, 0.5, 0.5], is_success=True, **bonus)
    assert early == pytest.approx(1.2)
    assert late == pytest.approx(0.55)
    assert future_return([1.0], is_success=False, **bonus) == 1.0


@given(st.floats(-1, 1), st.integers(1, 8), GAMMAS)
def test_equal_values_return_that_value_whatever_the_discount(
    value: float, count: int, gamma: float
) -> None:
    assert future_return([value] * count, gamma=gamma) == pytest.approx(value, abs=1e-12)


@given(VALUES, GAMMAS, st.floats(-2, 2))
def test_shifting_every_value_shifts_the_return(
    values: list[float], gamma: float, shift: float
) -> None:
    shifted = future_return([value + shift for value in values], gamma=gamma)
    assert shifted == pytest.approx(future_return(values, gamma=gamma) + shift, abs=1e-9)


@given(VALUES, GAMMAS, st.sampled_from(["discounted", "terminal", "max"]))
def test_return_lies_between_the_lowest_and_the_highest_value(
    values: list[float], gamma: float, aggregate: str
) -> None:
    result = future_return(values, gamma=gamma, aggregate=aggregate)
    assert min(values) - 1e-12 <= result <= max(values) + 1e-12


@pytest.mark.parametrize(
    ("values", "options", "field"),
    [
        ([], {}, "values"),
        ([1.0], {"gamma": 0.0}, "gamma"),
        ([1.0], {"gamma": 1.5}, "gamma"),
        ([1.0, 1.0], {"horizon": 1}, "horizon"),
        ([1.0], {"aggregate": "median"}, "aggregate"),
    ],
)
def test_impossible_arguments_are_named(values: list[float], options: dict, field: str) -> None:
    with pytest.raises(ValueError, match=f"future_return.{field}"):
        future_return(values, **options)


def test_standard_error_of_three_futures() -> None:
    # mean 0.5; deviations -0.5, 0, 0.5; variance 0.5 / 2 = 0.25; error sqrt(0.25 / 3)
    mean, error = mean_and_standard_error([0.0, 0.5, 1.0])
    assert mean == 0.5
    assert error == pytest.approx(math.sqrt(0.25 / 3))


def test_a_single_future_has_no_standard_error() -> None:
    assert mean_and_standard_error([0.3]) == (0.3, 0.0)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_mean_and_error_agree_with_the_standard_library(values: list[float]) -> None:
    mean, error = mean_and_standard_error(values)
    assert mean == pytest.approx(fmean(values), abs=1e-12)
    assert error == pytest.approx(stdev(values) / math.sqrt(len(values)), abs=1e-9)


def test_no_futures_have_no_mean() -> None:
    with pytest.raises(ValueError, match="must hold a value"):
        mean_and_standard_error([])
