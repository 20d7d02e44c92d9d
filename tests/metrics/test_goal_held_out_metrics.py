import math
from typing import get_args

import pytest
import torch

from rlff_lightning.errors import UserError
from rlff_lightning.metrics.goal_agreement import JudgeAgreement
from rlff_lightning.metrics.goal_completion import GoalCompletion
from rlff_lightning.metrics.goal_crisis import CrisisCare
from rlff_lightning.metrics.goal_trajectory import EmotionTrajectory
from rlff_lightning.types import Conversation, Episode, Message, Outcome, Verdict

VALUES: dict[Outcome, float] = {"worse": -1, "same": -0.5, "better": 0.5, "solved": 1}


def verdicts(*outcomes: Outcome) -> list[Verdict]:
    return [
        Verdict(value=VALUES.get(o, 0.0), outcome=o, is_success=o == "solved", answers=(o,))
        for o in outcomes
    ]


def test_trajectory_counts_who_is_left_and_carries_the_solved_on() -> None:
    metric = EmotionTrajectory(max_turns=3)
    metric.update(torch.tensor([[1.0]]), torch.tensor([[True]]))
    metric.update(
        torch.tensor([[-0.5, 0.5, 0.5], [-0.5, -1.0, 9.0]]),
        torch.tensor([[True, True, True], [True, True, False]]),
    )
    values, carried, num_episodes = metric.compute()
    # Turn 2: two of three go on, (.5 - 1) / 2; carried, the solved one adds its 1.
    assert values.tolist() == pytest.approx([0.0, -0.25, 0.5])
    assert carried.tolist() == pytest.approx([0.0, 0.5 / 3, 0.5 / 3])
    assert num_episodes.tolist() == [3, 2, 1]
    with pytest.raises(UserError, match="max_turns=3"):
        metric.update(torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.bool))


def test_agreement_of_two_judges_is_paired_by_episode() -> None:
    metric = JudgeAgreement()
    metric.update(verdicts("better", "solved"), verdicts("same", "solved"))
    metric.update(verdicts("solved", "same"), verdicts("same", "same"))
    metric.update(verdicts("worse"), verdicts("worse"))
    metric.update(verdicts("same"), verdicts("same"))
    found = metric.compute()
    # Successes: both 1, only first 1, neither 2. p_o = 3/4, p_e = (2 * 1 + 2 * 3) / 16 = 1/2.
    assert found.kappa_success == pytest.approx(0.5)
    assert (found.episodes, found.same_success, found.difference) == (4, 0.75, 0.25)
    assert found.same_outcome == pytest.approx(4 / 6)
    assert found.difference_low < 0.25 < found.difference_high


def test_judges_who_always_say_the_same_one_thing_have_no_kappa() -> None:
    metric = JudgeAgreement()
    metric.update(verdicts("same"), verdicts("same"))
    assert math.isnan(metric.compute().kappa_success)


def test_a_verdict_of_every_outcome_is_counted() -> None:
    metric = JudgeAgreement()
    outcomes = get_args(Outcome)
    metric.update(verdicts(*outcomes), verdicts(*outcomes))
    assert metric.compute().kappa_outcome == pytest.approx(1.0)


def test_crisis_care_counts_help_harm_and_silence() -> None:
    care = CrisisCare(("belittles", "blames"))
    care.update("Please call 911.", helps=True, harms=())
    care.update("Cheer up!", helps=False, harms=("belittles",))
    care.update("It sounds like you feel sad.", helps=False, harms=())
    care.update(" ", helps=False, harms=())
    found = care.compute()
    assert found["replies"] == 4
    assert found["points_to_help"] == found["harmful"] == found["empty"] == 0.25
    assert found["harm/belittles"] == 1
    assert sum(value for key, value in found.items() if key.startswith("harm/")) == 1
    # Wilson, 1 of 4: middle (.25 + .4802) / 1.9604, reach .4806 / 1.9604... see test_intervals.
    assert found["points_to_help_low"] == pytest.approx(0.0456, abs=1e-3)
    assert found["points_to_help_high"] == pytest.approx(0.6994, abs=1e-3)


def test_a_broken_off_episode_is_no_success_and_counted_even_without_a_verdict() -> None:
    opening = Message(role="seeker", text="I feel low.")
    silent = Message(role="supporter", text="", failure="no answer")
    broken = Episode(conversation=Conversation(id="a", messages=(opening, silent)), verdicts=())
    completion = GoalCompletion(max_turns=3)
    completion.update_episodes([broken])
    completion.update_episodes(
        [
            Episode(
                conversation=Conversation(id="b", messages=(opening, opening)),
                verdicts=tuple(verdicts("solved")),
            )
        ]
    )
    found = completion.compute()
    assert (found["broken_off"], found["success_rate"], found["average_turns"]) == (1, 0.5, 2.0)
    assert [found[f"episodes_at/{turn}"] for turn in (1, 2, 3)] == [1, 0, 0]
    assert [found[f"critic_value_at/{turn}"] for turn in (1, 2)] == [1.0, 0.0]
    assert found["critic_value_carried_at/3"] == 0.5


def test_a_verdict_that_the_critic_failed_to_give_is_no_value_and_no_outcome() -> None:
    message = Message(role="seeker", text="I feel low.")
    gone = Verdict(value=0.0, outcome="unparsed", is_success=False, failure="no answer")
    episode = Episode(
        conversation=Conversation(id="a", messages=(message,) * 5),
        verdicts=(*verdicts("better"), gone),
    )
    completion = GoalCompletion(max_turns=3)
    completion.update_episodes([episode])
    found = completion.compute()
    assert (found["broken_off"], found["mean_critic_value"]) == (1, 0.5)
    assert (found["outcome_share/better"], found["outcome_share/unparsed"]) == (1, 0)
    assert [found[f"episodes_at/{turn}"] for turn in (1, 2)] == [1, 0]
