import math

import numpy as np
import pytest

from rlff_lightning.functional.jackknife import jackknife_interval


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    # Values 1, 2, 3: without one of them 2.5, 2, 1.5; s^2 = 2/3 (.25 + 0 + .25) = 1/3, and
    # t(.975; 2) = 4.30265 makes 2.48414, as Student's interval of the mean.
    low, high = jackknife_interval(2.0, [2.5, 2.0, 1.5])
    assert (low, high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)


def test_a_single_cluster_bounds_nothing() -> None:
    assert jackknife_interval(0.4, [0.0]) == (-math.inf, math.inf)


def test_variety_of_zipfian_words_is_covered_in_at_least_93_percent_of_simulations() -> None:
    draw = np.random.default_rng(0)
    ranks = np.arange(1, 3001)
    shares = (1 / ranks) / (1 / ranks).sum()

    def dialogues() -> list[np.ndarray]:
        return list(draw.choice(3000, size=(25, 40), p=shares))

    def variety(rows: list[np.ndarray]) -> float:
        words = np.concatenate(rows)
        return len(np.unique(words)) / len(words)

    truth = float(np.mean([variety(dialogues()) for _ in range(1000)]))
    covered = 0
    for _ in range(400):
        rows = dialogues()
        without = [variety(rows[:place] + rows[place + 1 :]) for place in range(25)]
        low, high = jackknife_interval(variety(rows), without)
        covered += low <= truth <= high
    assert covered / 400 >= 0.93
