"""Future-oriented reward: what a simulated future is worth, and what the mean of several is."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

Aggregate = Literal["discounted", "terminal", "max"]
"""How the values along one future become one number."""


class MeanAndError(NamedTuple):
    """A mean and how well it is known."""

    mean: float
    standard_error: float


def future_return(
    values: Sequence[float],
    *,
    gamma: float = 1.0,
    aggregate: Aggregate = "discounted",
    success_bonus: float = 0.0,
    is_success: bool = False,
    horizon: int | None = None,
) -> float:
    """Reduce the critic's values along one future of a reply to its return.

    discounted  R = sum_h gamma^h v_h / sum_h gamma^h
    terminal    R = v_(N-1)
    max         R = max_h v_h
    bonus       R + success_bonus * (H - N + 1) / H  if the future ends in success

    Args:
        values: Critic value of each seeker turn after the reply, v_0 to v_(N-1), in [-1, 1].
        gamma: Discount per turn, in (0, 1]; used by ``discounted`` alone.
        aggregate: Which of the three reductions.
        success_bonus: Added whole for success at the first turn, 1/H of it at the last.
        is_success: The goal was reached at the last of ``values``.
        horizon: Seeker turns that the look-ahead allows, H >= N; N if not given.

    Returns:
        The return, in [-1, 1] without bonus; equal values v give v whatever gamma is.

    Raises:
        ValueError: If ``values`` is empty, ``gamma`` is outside (0, 1], ``horizon`` is below the
            number of values or ``aggregate`` is unknown.

    Source: RLFF-ESC, arXiv:2508.12935 (the idea); Wu et al. 2025, CollabLLM, arXiv:2502.00640,
        sec. 3 (mean over forward-sampled futures).
    """
    if not values:
        raise ValueError("future_return.values must hold a value, got none")
    if not 0.0 < gamma <= 1.0:
        raise ValueError(f"future_return.gamma must be in (0, 1], got {gamma!r}")
    horizon = len(values) if horizon is None else horizon
    if horizon < len(values):
        raise ValueError(f"future_return.horizon must be >= {len(values)}, got {horizon!r}")
    bonus = success_bonus * (horizon - len(values) + 1) / horizon if is_success else 0.0
    match aggregate:
        case "discounted":
            weights = [gamma**turn for turn in range(len(values))]
            weighted = math.fsum(w * v for w, v in zip(weights, values, strict=True))
            return weighted / math.fsum(weights) + bonus
        case "terminal":
            return values[-1] + bonus
        case "max":
            return max(values) + bonus
        case _:
            raise ValueError(
                f"future_return.aggregate must be discounted, terminal or max, got {aggregate!r}"
            )


def mean_and_standard_error(values: Sequence[float]) -> MeanAndError:
    """Average the returns of a reply's futures.

    m = sum_k R_k / K,  se = sqrt( sum_k (R_k - m)^2 / (K - 1) / K )

    Args:
        values: Return of each future, R_1 to R_K.

    Returns:
        Mean and standard error; the error is 0 with a single future.

    Raises:
        ValueError: If ``values`` is empty.
    """
    if not values:
        raise ValueError("mean_and_standard_error.values must hold a value, got none")
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return MeanAndError(mean, 0.0)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return MeanAndError(mean, math.sqrt(variance / count))
