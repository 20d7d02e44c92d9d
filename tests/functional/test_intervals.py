import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit
from scipy.stats import binom, binomtest

from rlff_lightning.errors import UserError
from rlff_lightning.functional.intervals import (
    clustered_share_interval,
    counts_mean_interval,
    mean_interval,
    paired_difference_interval,
    student_quantile,
    wilson_interval,
)


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


def coverage(trials: int, rate: float) -> float:
    """Probability that the interval holds the true rate, by adding up every possible outcome."""
    covered = 0.0
    for successes in range(trials + 1):
        low, high = wilson_interval(successes, trials)
        covered += float(binom.pmf(successes, trials, rate)) if low <= rate <= high else 0.0
    return covered


def test_the_interval_of_200_episodes_covers_rates_from_5_to_95_percent_in_93_to_97() -> None:
    rates = [share / 100 for share in range(5, 96)]
    covered = [coverage(200, rate) for rate in rates]
    assert 0.93 <= min(covered) <= max(covered) <= 0.97
    assert sum(covered) / len(covered) == pytest.approx(0.95, abs=0.005)


def test_nearer_to_zero_or_one_the_interval_still_covers_at_least_88_percent() -> None:
    # What an interval of a count cannot mend: so few successes are possible that it jumps.
    covered = [coverage(200, rate / 1000) for rate in range(2, 50)]
    assert min(covered) >= 0.88


def test_paired_difference_of_four_against_one_in_twenty() -> None:
    # b = 4.5, c = 1.5, n = 22: d = 3 / 22 = .13636,
    # reach 1.95996 sqrt(6 - 9 / 22) / 22 = 1.95996 * 2.36451 / 22 = .21065.
    low, high = paired_difference_interval(4, 1, 20)
    assert (low, high) == pytest.approx((0.13636 - 0.21065, 0.13636 + 0.21065), abs=1e-4)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_paired_difference_turns_its_sign_with_the_order(
    first: int, second: int, rest: int
) -> None:
    low, high = paired_difference_interval(first, second, first + second + rest)
    mirrored = paired_difference_interval(second, first, first + second + rest)
    assert mirrored == pytest.approx((-high, -low))
    assert -1 <= low <= high <= 1


def test_paired_difference_covers_the_truth_in_93_to_97_percent_of_simulations() -> None:
    # 200 pairs, 12 % of them only by the first, 5 % only by the second: the truth is .07.
    draws = np.random.default_rng(0).multinomial(200, [0.12, 0.05, 0.83], size=4000)
    ends = [paired_difference_interval(int(b), int(c), 200) for b, c, _ in draws]
    assert 0.93 <= sum(low <= 0.07 <= high for low, high in ends) / len(ends) <= 0.97


def test_mean_over_three_seeds_covers_the_truth_in_93_to_97_percent_of_simulations() -> None:
    draws = np.random.default_rng(1).normal(0.6, 0.1, size=(4000, 3))
    ends = [mean_interval(row.tolist()) for row in draws]
    assert 0.93 <= sum(low <= 0.6 <= high for low, high in ends) / len(ends) <= 0.97


@given(st.lists(st.integers(1, 8), min_size=2, max_size=50))
def test_sums_of_whole_numbers_have_the_interval_of_the_numbers(numbers: list[int]) -> None:
    found = counts_mean_interval(sum(numbers), sum(n**2 for n in numbers), len(numbers))
    expected = mean_interval(numbers)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_sums_that_no_numbers_have_are_refused() -> None:
    assert counts_mean_interval(3, 9, 1) == (-math.inf, math.inf)
    with pytest.raises(UserError, match="counts_mean_interval"):
        counts_mean_interval(4, 7, 2)


def test_scores_of_their_own_clusters_have_wilsons_interval() -> None:
    # v = C/(C-1) p(1-p)/n, so n_eff = C - 1: one trial less than Wilson's, for the mean is known.
    scores = [1.0] * 13 + [0.0] * 28
    found = clustered_share_interval(scores, range(41))
    z, p, n = 1.959964, 13 / 41, 40
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    expected = (middle - reach, middle + reach)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-6)


def test_turns_that_repeat_their_dialogue_count_once() -> None:
    scores = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    alone = clustered_share_interval(scores, range(6))
    rows = [(score, dialogue) for dialogue, score in enumerate(scores) for _ in range(9)]
    low, high = clustered_share_interval(*zip(*rows, strict=True))
    assert (low, high) == pytest.approx((alone.low, alone.high))


def test_scores_without_spread_tell_no_more_than_one_trial_per_cluster() -> None:
    assert clustered_share_interval([1.0] * 30, [0, 1, 2] * 10) == wilson_interval(3, 3)
    assert clustered_share_interval([1.0] * 30, [0] * 30) == (0.0, 1.0)
    assert clustered_share_interval([], []) == (0.0, 1.0)


def test_shares_in_clusters_cover_the_truth_in_93_to_97_percent_of_simulations() -> None:
    # 60 dialogues of 5 pairs; a dialogue's own rate is Beta(2.1, 0.9): on average .7.
    draw = np.random.default_rng(2)
    clusters = np.repeat(np.arange(60), 5).tolist()
    covered = 0
    for _ in range(1500):
        scores = draw.binomial(1, np.repeat(draw.beta(2.1, 0.9, 60), 5)).astype(float)
        low, high = clustered_share_interval(scores.tolist(), clusters)
        covered += low <= 0.7 <= high
    assert 0.93 <= covered / 1500 <= 0.97


@pytest.mark.parametrize("counts", [(-1, 0, 3), (2, 2, 3)])
def test_paired_counts_beyond_the_trials_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="paired_difference_interval"):
        paired_difference_interval(*counts)
