import pytest

from rlff_lightning.errors import UserError
from rlff_lightning.rollout.reward_scorer import RewardModelScorer
from rlff_lightning.rollout.scorers import FormatScorer, RepetitionScorer, check_scorers


def test_terms_that_would_hide_each_other_are_refused_and_a_name_lets_both_in() -> None:
    pair = [RewardModelScorer("a"), RewardModelScorer("b")]
    with pytest.raises(UserError, match=r"Owner.scorers must .*'future'.* another term; give"):
        check_scorers("Owner", pair)
    check_scorers("Owner", [pair[0], RewardModelScorer("b", name="safety")])
    check_scorers("Owner", [FormatScorer(), RepetitionScorer(2), RepetitionScorer(3, name="wide")])


def test_no_scorer_may_pass_for_the_kl_in_the_reward() -> None:
    with pytest.raises(UserError, match=r"got 'kl', which is that of the KL in the reward"):
        check_scorers("Owner", [RepetitionScorer(name="kl")])
