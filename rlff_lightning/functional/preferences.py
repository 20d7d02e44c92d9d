"""Comparisons of two replies by a judge who may favour a place: each pair is shown both ways."""

from typing import Literal

Preference = Literal["first", "second", "tie"]
"""Which of two replies is better, by their places."""


def settled(straight: Preference, swapped: Preference) -> float:
    """Score a pair from its two showings; a win must be said in both.

    s = 1 if the first reply wins twice, 0 if the second does, else 1/2

    Args:
        straight: Verdict with the first reply shown first.
        swapped: Verdict with the second reply shown first.

    Returns:
        The first reply's score, in ``{0, 0.5, 1}``.

    Source: Zheng et al. 2023, arXiv:2306.05685, sec. 3.4 (the conservative approach).

    Example:
        >>> settled("first", "second"), settled("first", "first"), settled("second", "tie")
        (1.0, 0.5, 0.5)
    """
    if straight == "first" and swapped == "second":
        return 1.0
    return 0.0 if straight == "second" and swapped == "first" else 0.5


def follows_place(straight: Preference, swapped: Preference) -> bool:
    """Say whether the same place won twice: the verdict was about the order, not the replies."""
    return straight == swapped != "tie"
