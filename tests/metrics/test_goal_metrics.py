import math

import pytest
import torch
from torch import Tensor

from rlff_lightning.errors import UserError
from rlff_lightning.metrics.goal import (
    OUTCOMES,
    AverageTurns,
    MeanCriticValue,
    OutcomeShares,
    SuccessRate,
    SuccessRateAtTurn,
)
from rlff_lightning.metrics.goal_completion import GoalCompletion
from rlff_lightning.types import Conversation, Episode, Message, Outcome, Verdict

# Solved in 1, 3 and 3 turns; failed after 2 and 4.
IS_SUCCESS = torch.tensor([True, False, True, True, False])
NUM_TURNS = torch.tensor([1, 2, 3, 3, 4])
BATCHES = [slice(0, 2), slice(2, 5)]


def test_success_rate_over_batches_has_a_wilson_interval() -> None:
    # 3 of 5: middle (.6 + .384) / 1.768 = .5566, reach 1.96 sqrt(.048 + .0384) / 1.768 = .3258.
    metric = SuccessRate()
    for batch in BATCHES:
        metric.update(IS_SUCCESS[batch])
    value, low, high, trials = metric.compute()
    assert value.item() == pytest.approx(0.6)
    assert (low.item(), high.item()) == pytest.approx((0.2307, 0.8824), abs=1e-4)
    assert trials.item() == 5


def test_average_turns_counts_failures_as_the_cap() -> None:
    metric = AverageTurns(max_turns=8)
    for batch in BATCHES:
        metric.update(IS_SUCCESS[batch], NUM_TURNS[batch])
    value, low, high, trials = metric.compute()
    assert value.item() == pytest.approx((1 + 8 + 3 + 3 + 8) / 5)
    # Reach 2.77645 * 3.2094 / sqrt(5) = 3.985: both ends are beyond what an episode can take.
    assert (low.item(), high.item(), trials.item()) == (1, 8, 5)


def test_average_turns_over_batches_have_a_student_interval() -> None:
    metric = AverageTurns(max_turns=20)
    for batch in ([1, 4], [3, 3, 4]):
        metric.update(torch.ones(len(batch), dtype=torch.bool), torch.tensor(batch))
    value, low, high, _ = metric.compute()
    # s^2 = (5 * 51 - 15^2) / (5 * 4) = 1.5; t of 4 degrees 2.77645; reach 2.77645 sqrt(1.5 / 5).
    assert value.item() == 3.0
    assert (low.item(), high.item()) == pytest.approx((3 - 1.52073, 3 + 1.52073), abs=1e-5)


@pytest.mark.parametrize("num_episodes", [0, 1])
def test_average_turns_of_fewer_than_two_episodes_bound_nothing(num_episodes: int) -> None:
    metric = AverageTurns(max_turns=8)
    metric.update(IS_SUCCESS[:num_episodes], NUM_TURNS[:num_episodes])
    _, low, high, _ = metric.compute()
    assert (low.item(), high.item()) == (1, 8)


def test_average_turns_that_do_not_vary_have_no_interval() -> None:
    completion = GoalCompletion(max_turns=3)
    completion.update_episodes([episode(*[(-0.5, False, "same")] * 3)] * 20)
    result = completion.compute()
    # Twenty failures do not prove that nobody is ever helped: 8.00 (8.00 to 8.00) would say so.
    assert result["average_turns"] == 3
    assert math.isnan(result["average_turns_low"])
    assert math.isnan(result["average_turns_high"])
    assert result["success_rate_high"] > 0.1


def test_success_rate_at_turn_is_a_curve() -> None:
    metric = SuccessRateAtTurn(max_turns=4)
    for batch in BATCHES:
        metric.update(IS_SUCCESS[batch], NUM_TURNS[batch])
    assert metric.compute().tolist() == pytest.approx([0.2, 0.2, 0.6, 0.6])


def test_mean_critic_value_counts_only_turns_that_took_place() -> None:
    metric = MeanCriticValue()
    metric.update(torch.tensor([[1.0, 9.0]]), torch.tensor([[True, False]]))
    metric.update(torch.tensor([[-0.5, 0.5]]), torch.tensor([[True, True]]))
    assert metric.compute().item() == pytest.approx(1 / 3)


def test_mean_critic_value_is_the_same_in_whatever_order_ranks_add_it_up() -> None:
    values = torch.rand(1, 3000, generator=torch.Generator().manual_seed(0)) - 0.5
    found = []
    for parts in (values.split(7, 1), values.flip(1).split(501, 1)):
        metric = MeanCriticValue()
        for part in parts:
            metric.update(part, torch.ones_like(part, dtype=torch.bool))
        found.append(metric.compute().item())
    # Float32 differs in the fifth digit here.
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_outcome_shares_are_in_the_order_of_the_outcomes() -> None:
    assert OUTCOMES == ("worse", "same", "better", "solved", "unparsed")
    metric = OutcomeShares()
    metric.update(torch.tensor([3, 3, 0]))
    metric.update(torch.tensor([[4]]))
    assert metric.compute().tolist() == [0.25, 0.0, 0.0, 0.5, 0.25]


@pytest.mark.parametrize("outcome", [-1, 5])
def test_an_index_that_is_no_outcome_is_refused(outcome: int) -> None:
    with pytest.raises(UserError, match=r"must be in \[0, 5\)"):
        OutcomeShares().update(torch.tensor([outcome]))


def episode(*turns: tuple[float, bool, Outcome], answers: tuple[Outcome, ...] = ()) -> Episode:
    seeker = Message(role="seeker", text="I feel low.")
    supporter = Message(role="supporter", text="Tell me more.")
    return Episode(
        conversation=Conversation(id="a", messages=(seeker, *(supporter, seeker) * len(turns))),
        verdicts=tuple(
            Verdict(value=value, is_success=is_success, outcome=outcome, answers=answers)
            for value, is_success, outcome in turns
        ),
    )


def test_goal_completion_reads_episodes_of_unequal_length() -> None:
    completion = GoalCompletion(max_turns=3)
    solved = episode((-0.5, False, "same"), (1.0, True, "solved"))
    failed = episode(
        *[(0.5, False, "better")] * 3, answers=("better", "unparsed", "better", "better")
    )
    completion.update_episodes([solved, failed])
    completion.update_episodes([])
    result = completion.compute()
    assert result["episodes"] == 2
    assert result["success_rate"] == 0.5
    assert (result["success_rate_low"], result["success_rate_high"]) == pytest.approx(
        (0.0945, 0.9055), abs=1e-4
    )
    assert result["average_turns"] == 2.5
    # Two and three turns: reach 12.7062 * .7071 / sqrt(2) = 6.35.
    assert (result["average_turns_low"], result["average_turns_high"]) == (1, 3)
    assert result["mean_critic_value"] == pytest.approx((-0.5 + 1 + 1.5) / 5)
    assert [result[f"success_rate_at/{turn}"] for turn in (1, 2, 3)] == [0.0, 0.5, 0.5]
    shares = [result[f"outcome_share/{name}"] for name in OUTCOMES]
    assert shares == pytest.approx([0, 1 / 14, 9 / 14, 1 / 14, 3 / 14])


def test_goal_completion_forgets_on_reset() -> None:
    completion = GoalCompletion(max_turns=3)
    completion.update_episodes([episode((1.0, True, "solved"))])
    completion.reset()
    result = completion.compute()
    assert result["episodes"] == result["success_rate"] == 0
    assert result["success_rate_high"] == 1


def all_tensors() -> tuple[Tensor, ...]:
    mask = torch.arange(4) < NUM_TURNS[:, None]
    return IS_SUCCESS, NUM_TURNS, mask.float() * 0.25, mask, torch.tensor([0, 1, 2, 3, 4])


def test_goal_completion_from_tensors_equals_its_parts() -> None:
    completion = GoalCompletion(max_turns=4)
    completion.update(*all_tensors())
    result = completion.compute()
    assert result["success_rate"] == pytest.approx(0.6)
    assert result["average_turns"] == pytest.approx(3.0)
    assert result["mean_critic_value"] == pytest.approx(0.25)
