import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlff_lightning.errors import UserError
from rlff_lightning.functional.advantages import Scale, flat_group_share, group_advantages

rewards_of_groups = st.lists(
    st.lists(st.floats(-100, 100), min_size=4, max_size=4), min_size=1, max_size=5
).map(lambda rows: torch.tensor(rows, dtype=torch.float64).flatten())
scales = st.sampled_from(["group", "batch", "none"])


def test_group_advantages_divide_by_each_groups_own_unbiased_std() -> None:
    # Group [1, 3]: mean 2, std sqrt(2). Group [0, 10]: mean 5, std sqrt(50). No eps.
    rewards = torch.tensor([1.0, 3.0, 0.0, 10.0], dtype=torch.float64)
    expected = [-1 / math.sqrt(2), 1 / math.sqrt(2), -5 / math.sqrt(50), 5 / math.sqrt(50)]
    assert group_advantages(rewards, 2, eps=0.0).tolist() == pytest.approx(expected)


def test_group_advantages_keep_the_papers_eps_by_default() -> None:
    # Group [0, 2e-4]: mean 1e-4, std sqrt(2) 1e-4, so A = 1e-4 / (sqrt(2) 1e-4 + 1e-4).
    rewards = torch.tensor([0.0, 2e-4], dtype=torch.float64)
    assert group_advantages(rewards, 2)[1].item() == pytest.approx(1 / (math.sqrt(2) + 1))


def test_batch_scale_divides_by_the_std_over_all_rewards() -> None:
    # Rewards 1, 3, 5, 7: std sqrt(20 / 3); groups [1, 3] and [5, 7] are centred to -1, 1.
    advantages = group_advantages(torch.tensor([1.0, 3.0, 5.0, 7.0]), 2, scale="batch", eps=0.0)
    root = math.sqrt(20 / 3)
    assert advantages.tolist() == pytest.approx([-1 / root, 1 / root] * 2)


def test_no_scale_only_centres() -> None:
    assert group_advantages(torch.tensor([1.0, 4.0]), 2, scale="none").tolist() == [-1.5, 1.5]


@given(st.floats(-1e4, 1e4), st.integers(2, 9), scales)
def test_equal_rewards_give_advantages_of_exactly_zero(
    reward: float, group_size: int, scale: Scale
) -> None:
    rewards = torch.full((2 * group_size,), reward, dtype=torch.float32)
    assert group_advantages(rewards, group_size, scale=scale).tolist() == [0.0] * 2 * group_size


@given(rewards_of_groups, scales, st.floats(-50, 50))
def test_a_shift_of_all_rewards_changes_nothing(
    rewards: Tensor, scale: Scale, shift: float
) -> None:
    shifted = group_advantages(rewards + shift, 4, scale=scale)
    torch.testing.assert_close(
        shifted, group_advantages(rewards, 4, scale=scale), rtol=1e-6, atol=1e-6
    )


@given(rewards_of_groups, scales)
def test_each_group_sums_to_zero(rewards: Tensor, scale: Scale) -> None:
    sums = group_advantages(rewards, 4, scale=scale).view(-1, 4).sum(dim=1)
    torch.testing.assert_close(sums, torch.zeros_like(sums), rtol=0, atol=1e-8)


@given(rewards_of_groups, st.permutations(range(4)))
def test_the_order_of_siblings_does_not_matter(rewards: Tensor, order: list[int]) -> None:
    mixed = group_advantages(rewards.view(-1, 4)[:, order].flatten(), 4)
    expected = group_advantages(rewards, 4).view(-1, 4)[:, order].flatten()
    torch.testing.assert_close(mixed, expected, rtol=1e-6, atol=1e-8)


def test_half_of_the_groups_are_flat() -> None:
    rewards = torch.tensor([0.1, 0.1, 0.1, 0.3, 0.2, 0.1])
    assert flat_group_share(rewards, 3) == 0.5


@pytest.mark.parametrize("group_size", [0, 1, 4])
def test_a_group_size_that_does_not_fit_is_refused(group_size: int) -> None:
    with pytest.raises(UserError, match="group_size must be at least 2 and divide"):
        group_advantages(torch.zeros(6), group_size)


def test_an_unknown_scale_is_refused() -> None:
    with pytest.raises(UserError, match="got 'std'"):
        group_advantages(torch.zeros(4), 2, scale="std")  # type: ignore[arg-type]
