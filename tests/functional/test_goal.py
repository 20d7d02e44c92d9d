import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.errors import UserError
from rlff_lightning.functional.goal import (
    average_turns,
    carry_forward,
    success_rate,
    success_rate_at_turn,
)

# Solved in 1, 3 and 3 turns; failed after 2 (the seeker left) and after 4.
IS_SUCCESS = torch.tensor([True, False, True, True, False])
NUM_TURNS = torch.tensor([1, 2, 3, 3, 4])
episodes = st.lists(st.tuples(st.booleans(), st.integers(1, 6)), min_size=1, max_size=20)


def test_three_of_five_episodes_succeed() -> None:
    assert success_rate(IS_SUCCESS).item() == pytest.approx(0.6)


def test_a_failure_counts_as_the_cap_however_early_it_ended() -> None:
    # (1 + 4 + 3 + 3 + 4) / 5 = 3.
    assert average_turns(IS_SUCCESS, NUM_TURNS, max_turns=4).item() == 3.0


def test_success_rate_at_turn_climbs_to_the_success_rate() -> None:
    curve = success_rate_at_turn(IS_SUCCESS, NUM_TURNS, max_turns=4)
    assert curve.tolist() == pytest.approx([0.2, 0.2, 0.6, 0.6])


@given(episodes)
def test_average_turns_is_the_area_above_the_curve(rows: list[tuple[bool, int]]) -> None:
    # E[turns] = sum over t of P(not solved within t turns), t = 0 .. max_turns - 1.
    is_success, num_turns = (torch.tensor(column) for column in zip(*rows, strict=True))
    curve = success_rate_at_turn(is_success, num_turns, max_turns=6)
    area = 1 + (1 - curve[:-1]).sum()
    assert average_turns(is_success, num_turns, max_turns=6).item() == pytest.approx(area.item())


def test_no_episode_is_zero_everywhere() -> None:
    none, turns = torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.int64)
    assert success_rate(none) == 0
    assert average_turns(none, turns, max_turns=3) == 0
    assert success_rate_at_turn(none, turns, max_turns=3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("turns", [0, 9])
def test_a_success_outside_the_cap_is_refused(turns: int) -> None:
    with pytest.raises(UserError, match=rf"max_turns=8\], got \[{turns}\]"):
        average_turns(torch.tensor([True]), torch.tensor([turns]), max_turns=8)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(UserError, match=r"must both be \(B,\), got \(5,\) and \(4,\)"):
        average_turns(IS_SUCCESS, NUM_TURNS[:4], max_turns=4)


def test_an_ended_episode_keeps_its_last_value() -> None:
    values = torch.tensor([[-0.5, 1.0, 9.0], [0.5, -1.0, -0.5], [9.0, 9.0, 9.0]])
    took = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    carried = carry_forward(values, took)
    assert carried.tolist() == [[-0.5, 1.0, 1.0], [0.5, -1.0, -0.5], [0.0, 0.0, 0.0]]
