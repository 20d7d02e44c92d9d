import math

import pytest
import torch

from rlff_lightning.functional.preferences import Preference
from rlff_lightning.metrics.judged import PairwisePreference, RatedReplies


def test_ratings_are_averaged_over_what_could_be_read() -> None:
    rated = RatedReplies(("warmth", "sense"))
    ratings = [
        {"warmth": 5, "sense": None},
        {"warmth": 2, "sense": None},
        {"warmth": None, "sense": None},
    ]
    rated.update(ratings[:1], torch.tensor([1]))
    rated.update(ratings[1:], torch.tensor([2, 3]))
    found = rated.compute()
    # (5 + 2) / 2; of six answers four were unreadable.
    assert found["judged/warmth"] == pytest.approx(3.5)
    assert (found["judged/warmth_low"], found["judged/warmth_high"]) == (2.0, 5.0)
    assert math.isnan(found["judged/sense"])
    assert found["judged/unparsed"] == pytest.approx(4 / 6)


def test_wins_ties_and_losses_of_a_worked_example() -> None:
    preference = PairwisePreference()
    preference.update(
        ["first", "first", "second", "tie", "first"],
        ["second", "first", "first", "tie", None],
        torch.arange(5),
    )
    found = preference.compute()
    assert (found["wins"], found["losses"], found["ties"], found["torn"]) == (1, 1, 2, 1)
    assert (found["pairs"], found["unparsed"]) == (4, 1)
    assert found["win_rate"] == 0.5
    # v = 4/3 (1/4 + 1/4) / 16 = 1/24, so n_eff = 1/4 / (1/24) = 6, at most 4 pairs: Wilson's
    # interval of 2 in 4.
    ends = (found["win_rate_low"], found["win_rate_high"])
    assert ends == pytest.approx((0.15004, 0.84996), abs=1e-4)


def test_pairs_give_the_same_bits_in_whatever_order_ranks_hold_them() -> None:
    drawn = torch.Generator().manual_seed(1)
    verdicts = torch.randint(3, (90, 2), generator=drawn).tolist()
    names: list[Preference] = ["first", "second", "tie"]
    dialogues = torch.randint(7, (90,), generator=drawn)
    ends = set()
    for _ in range(20):
        order = torch.randperm(90, generator=drawn).tolist()
        preference = PairwisePreference()
        straight, swapped = ([names[verdicts[row][side]] for row in order] for side in (0, 1))
        preference.update(straight, swapped, dialogues[order])
        found = preference.compute()
        ends.add((found["win_rate_low"], found["win_rate_high"]))
    assert len(ends) == 1


def test_nothing_compared_bounds_nothing() -> None:
    preference = PairwisePreference()
    preference.update([None], ["first"], torch.tensor([7]))
    found = preference.compute()
    assert math.isnan(found["win_rate"])
    assert (found["win_rate_low"], found["win_rate_high"]) == (0.0, 1.0)
