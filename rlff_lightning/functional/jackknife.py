"""Confidence interval of a statistic that repeated rows would change, such as a count of types."""

import math
from collections.abc import Sequence
from statistics import fmean

from rlff_lightning.functional.intervals import Interval, student_quantile


def jackknife_interval(
    value: float, without: Sequence[float], confidence: float = 0.95
) -> Interval:
    """Bound a statistic by what leaving out one cluster after another does to it.

    value -+ t s,  s^2 = (C-1)/C sum_c (without_c - mean(without))^2,  t of C-1 degrees of freedom

    A bootstrap draws clusters twice, and would find too few different words in them.

    Args:
        value: Of the whole sample.
        without: Of the sample without each of its clusters, C.
        confidence: Probability that the interval covers what other clusters as many would give on
            average, in ``(0, 1)``.

    Returns:
        The interval; the whole real line for fewer than two clusters.

    Source: Efron & Stein 1981, Ann. Statist. 9(3): s^2 is rather too large than too small.
    """
    count = len(without)
    if count < 2:
        return Interval(-math.inf, math.inf)
    middle = fmean(without)
    squares = math.fsum((other - middle) ** 2 for other in without)
    error = math.sqrt((count - 1) / count * squares)
    reach = student_quantile((1 + confidence) / 2, count - 1) * error
    return Interval(value - reach, value + reach)
