"""Confidence intervals of a share, of the difference of two, and of a mean."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

from rlff_lightning.errors import UserError


class Interval(NamedTuple):
    """Both ends of a confidence interval."""

    low: float
    """Lower end, in the unit of what was measured."""
    high: float
    """Upper end."""


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Bound a success probability by the score interval, which holds for 0 and 1 as well.

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), with p = successes / n

    Args:
        successes: Number of successes, in ``[0, trials]``.
        trials: Number of trials, n.
        confidence: Probability that the interval covers the truth, in ``(0, 1)``.

    Returns:
        Ends in ``[0, 1]``; the whole of it without trials.

    Raises:
        UserError: If the counts or the confidence are impossible.

    Source: Wilson 1927, JASA 22(158).

    Example:
        >>> wilson_interval(0, 10).low
        0.0
    """
    if not 0 <= successes <= trials:
        raise UserError(
            f"wilson_interval.successes must be in [0, trials={trials}], got {successes!r}"
        )
    tail = _upper_tail("wilson_interval", confidence)
    return _score_interval(successes / trials, trials, tail) if trials else Interval(0.0, 1.0)


def clustered_share_interval(
    scores: Sequence[float], clusters: Sequence[int], confidence: float = 0.95
) -> Interval:
    """Bound the mean of scores in [0, 1] that come in clusters, such as the turns of a dialogue.

    Wilson's interval at the mean p, with an effective number of trials for n:
    n_eff = p(1-p) / v, at most n,  v = C/(C-1) sum_c (sum_{i in c} (s_i - p))^2 / n^2

    Scores without any spread tell no more than one trial per cluster: n_eff = C.

    Args:
        scores: In ``[0, 1]``, N of them.
        clusters: Cluster of each score, C different ones.
        confidence: Probability that the interval covers the truth, in ``(0, 1)``.

    Returns:
        Ends in ``[0, 1]``; the whole of it for fewer than two clusters.

    Raises:
        UserError: If the confidence is impossible.

    Source: Korn & Graubard 1998, Survey Methodology 24(2) (the effective number), with Wilson 1927.
    """
    tail = _upper_tail("clustered_share_interval", confidence)
    names = set(clusters)
    if len(names) < 2:
        return Interval(0.0, 1.0)
    share = fmean(scores)
    sums = dict.fromkeys(names, 0.0)
    for score, cluster in zip(scores, clusters, strict=True):
        sums[cluster] += score - share
    squares = math.fsum(value**2 for value in sums.values())
    variance = len(names) / (len(names) - 1) * squares / len(scores) ** 2
    # Sums of rounded differences are not exactly 0.
    has_spread = variance > 1e-12 and 0 < share < 1
    trials = share * (1 - share) / variance if has_spread else len(names)
    return _score_interval(share, min(trials, len(scores)), tail)


def _score_interval(share: float, trials: float, tail: float) -> Interval:
    z = NormalDist().inv_cdf(tail)
    middle = share + z**2 / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    # At 0 and at n one end is exact on paper; rounding may not push it past the truth.
    low = 0.0 if share == 0 else (middle - reach) / scale
    high = 1.0 if share == 1 else (middle + reach) / scale
    return Interval(low, high)


def paired_difference_interval(
    only_first: int, only_second: int, trials: int, confidence: float = 0.95
) -> Interval:
    """Bound the difference of two success probabilities that were measured on the same trials.

    d -+ z sqrt(b + c - (b - c)^2 / n) / n, with d = (b - c) / n, after adding 1/2 to each of the
    four cells: b = only_first + 1/2, c = only_second + 1/2, n = trials + 2

    Args:
        only_first: Trials in which the first succeeded and the second did not.
        only_second: The reverse.
        trials: All trials.
        confidence: Probability that the interval covers the truth, in ``(0, 1)``.

    Returns:
        Ends in ``[-1, 1]``, of first minus second; the whole of it without trials.

    Raises:
        UserError: If the counts or the confidence are impossible.

    Source: Agresti & Min 2005, Statistics in Medicine 24(5), sec. 2.

    Example:
        >>> low, high = paired_difference_interval(4, 4, 100)
        >>> low == -high
        True
    """
    if min(only_first, only_second) < 0 or only_first + only_second > trials:
        raise UserError(
            "paired_difference_interval: only_first + only_second must be in "
            f"[0, trials={trials}], got {only_first!r} + {only_second!r}"
        )
    z = NormalDist().inv_cdf(_upper_tail("paired_difference_interval", confidence))
    if trials == 0:
        return Interval(-1.0, 1.0)
    first, second, count = only_first + 0.5, only_second + 0.5, trials + 2
    middle = (first - second) / count
    reach = z * math.sqrt(first + second - (first - second) ** 2 / count) / count
    return Interval(max(-1.0, middle - reach), min(1.0, middle + reach))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Bound the mean that independent values were drawn around, by Student's t.

    mean -+ t s / sqrt(n), with s the unbiased standard deviation and t of n - 1 degrees of freedom

    Args:
        values: At least two values bound anything.
        confidence: Probability that the interval covers the truth, in ``(0, 1)``.

    Returns:
        The interval; the whole real line for fewer than two values.

    Raises:
        UserError: If the confidence is impossible.

    Source: Student 1908, Biometrika 6(1).
    """
    tail = _upper_tail("mean_interval", confidence)
    if len(values) < 2:
        return Interval(-math.inf, math.inf)
    return _student_interval(fmean(values), stdev(values), len(values), tail)


def counts_mean_interval(
    total: int, squares: int, count: int, confidence: float = 0.95
) -> Interval:
    """Bound the mean that whole numbers were drawn around, of which sums alone are known.

    ``mean_interval`` with s^2 = (n Q - S^2) / (n (n - 1)), exact until the root is taken

    Args:
        total: Their sum, S.
        squares: Sum of their squares, Q.
        count: How many, n; at least two bound anything.
        confidence: Probability that the interval covers the truth, in ``(0, 1)``.

    Returns:
        The interval; the whole real line for fewer than two numbers.

    Raises:
        UserError: If the sums or the confidence are impossible.

    Source: Student 1908, Biometrika 6(1).
    """
    tail = _upper_tail("counts_mean_interval", confidence)
    spread = count * squares - total**2
    if count < 0 or spread < 0:
        raise UserError(
            "counts_mean_interval.squares must be at least total^2 / count, got "
            f"{squares!r} for {total!r} and {count!r}"
        )
    if count < 2:
        return Interval(-math.inf, math.inf)
    deviation = math.sqrt(spread / (count * (count - 1)))
    return _student_interval(total / count, deviation, count, tail)


def _student_interval(middle: float, deviation: float, count: int, tail: float) -> Interval:
    reach = student_quantile(tail, count - 1) * deviation / math.sqrt(count)
    return Interval(middle - reach, middle + reach)


def student_quantile(probability: float, degrees: int) -> float:
    """Invert the cumulative distribution of Student's t.

    Args:
        probability: In ``[0.5, 1)``.
        degrees: Degrees of freedom, at least 1.

    Returns:
        The t whose cumulative probability is ``probability``.

    Source: Abramowitz & Stegun 1964, eq. 26.7.3 and 26.7.4 (finite series, up to 1,000 degrees) and
        26.7.5 (expansion, error below 1e-9 beyond).
    """
    normal = NormalDist().inv_cdf(probability)
    if degrees > 1000:
        cubic = (normal**3 + normal) / 4
        quintic = (5 * normal**5 + 16 * normal**3 + 3 * normal) / 96
        septic = (3 * normal**7 + 19 * normal**5 + 17 * normal**3 - 15 * normal) / 384
        return normal + cubic / degrees + quintic / degrees**2 + septic / degrees**3
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halves the angle's range down to float64's spacing
        angle = (low + high) / 2
        if _central_probability(angle, degrees) < 2 * probability - 1:
            low = angle
        else:
            high = angle
    return math.sqrt(degrees) * math.tan(low)


def _central_probability(angle: float, degrees: int) -> float:
    """P(|T| < t) for t = sqrt(degrees) tan(angle)."""
    cosine, sine = math.cos(angle), math.sin(angle)
    is_odd = degrees % 2
    term, total = (sine * cosine, 0.0) if is_odd else (sine, 0.0)
    for power in range(1 + is_odd, degrees, 2):
        total += term
        term *= cosine**2 * power / (power + 1)
    return 2 / math.pi * (angle + total) if is_odd else total


def _upper_tail(owner: str, confidence: float) -> float:
    if not 0 < confidence < 1:
        raise UserError(f"{owner}.confidence must be between 0 and 1, got {confidence!r}")
    return (1 + confidence) / 2
