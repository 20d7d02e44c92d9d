from itertools import product
from typing import get_args

import pytest

from rlff_lightning.functional.preferences import Preference, follows_place, settled

ALL: tuple[Preference, ...] = get_args(Preference)


@pytest.mark.parametrize(
    ("straight", "swapped", "score"),
    [
        ("first", "second", 1.0),
        ("second", "first", 0.0),
        ("tie", "tie", 0.5),
        ("first", "first", 0.5),
        ("second", "second", 0.5),
        ("first", "tie", 0.5),
        ("tie", "first", 0.5),
    ],
)
def test_a_win_must_be_said_in_both_orders(
    straight: Preference, swapped: Preference, score: float
) -> None:
    assert settled(straight, swapped) == score


def test_exchanging_the_two_replies_turns_the_score_round() -> None:
    # The same two verdicts, told from the other reply's side: the showings change places.
    for straight, swapped in product(ALL, ALL):
        assert settled(swapped, straight) == 1 - settled(straight, swapped)


def test_a_judge_who_looks_at_the_place_alone_never_settles_anything() -> None:
    torn = [pair for pair in product(ALL, ALL) if follows_place(*pair)]
    assert torn == [("first", "first"), ("second", "second")]
    assert {settled(*pair) for pair in torn} == {0.5}
