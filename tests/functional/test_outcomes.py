import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.errors import UserError
from rlff_lightning.functional.outcomes import outcome_shares, two_hot

CLASSES = torch.tensor([-1.0, -0.5, 0.5, 1.0], dtype=torch.float64)


def test_a_value_is_split_between_its_neighbours() -> None:
    # 0.25 lies three quarters of the way from -0.5 to 0.5; 0.5 is an outcome itself.
    found = two_hot(torch.tensor([0.25, 0.5, -1.0, 1.0], dtype=torch.float64), CLASSES)
    assert found.tolist() == [[0, 0.25, 0.75, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=5))
def test_the_expected_value_of_a_split_is_the_value(values: list[float]) -> None:
    given_values = torch.tensor(values, dtype=torch.float64)
    found = two_hot(given_values, CLASSES)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(len(values), dtype=torch.float64))
    torch.testing.assert_close(found @ CLASSES, given_values)


def test_a_value_beyond_the_outcomes_is_refused() -> None:
    with pytest.raises(UserError, match=r"within the outcomes' values \[-1, 1\], got 1.2"):
        two_hot(torch.tensor([0.0, 1.2], dtype=torch.float64), CLASSES)


def test_shares_keep_what_the_mean_of_turns_hides() -> None:
    # Turns -1 and 1 have the mean 0: half worse, half solved, and not half same, half better.
    turns = torch.tensor([[-1.0, 1.0], [-1.0, 9.0], [0.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    # The second label is no mean of its turns, the third has none: split by themselves.
    labels = torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64)
    found = outcome_shares(labels, turns, mask, CLASSES)
    assert found.tolist() == [[0.5, 0, 0, 0.5], [0, 0, 1, 0], [0, 0.5, 0.5, 0]]
