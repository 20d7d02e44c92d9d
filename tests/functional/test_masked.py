import torch
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.functional.masked import masked_mean, masked_sum

NAN, INF = float("nan"), float("inf")


def test_masked_mean_of_two_and_four_is_three() -> None:
    values = torch.tensor([2.0, 100.0, 4.0])
    assert masked_mean(values, torch.tensor([True, False, True])) == 3.0


def test_masked_mean_of_nothing_is_zero_per_row() -> None:
    mask = torch.tensor([[True, True], [False, False]])
    means = masked_mean(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), mask, dim=-1)
    assert means.tolist() == [1.5, 0.0]


@given(st.sampled_from([NAN, INF, -INF]))
def test_what_is_masked_out_reaches_neither_value_nor_gradient(poison: float) -> None:
    values = torch.tensor([1.0, poison], dtype=torch.float64, requires_grad=True)
    total = masked_sum(values, torch.tensor([True, False]))
    total.backward()
    assert total == 1.0
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 0.0]
