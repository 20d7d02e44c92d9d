import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.functional.surrogates import clipped_surrogate, clipped_weight_surrogate


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.1, 2.0, -2.2, -2.0),  # inside: -r A
        (1.5, 2.0, -2.56, 0.0),  # good and likely enough: -(1 + .28) A, flat
        (0.5, 2.0, -1.0, -2.0),  # good and rare: still pulled up
        (0.5, -2.0, 1.6, 0.0),  # bad and rare enough: -(1 - .2) A, flat
        (1.5, -2.0, 3.0, 2.0),  # bad and likely: still pushed down
    ],
)
def test_clipping_flattens_what_went_far_enough_in_its_own_direction(
    ratio: float, advantage: float, loss: float, slope: float
) -> None:
    ratios = torch.tensor([[ratio]], dtype=torch.float64, requires_grad=True)
    result = clipped_surrogate(
        ratios, torch.tensor([[advantage]], dtype=torch.float64), clip_low=0.2, clip_high=0.28
    )
    result.loss.sum().backward()
    assert result.loss.item() == pytest.approx(loss)
    assert ratios.grad is not None
    assert ratios.grad.item() == pytest.approx(slope)
    assert result.is_clipped_high.item() == (slope == 0 and advantage > 0)
    assert result.is_clipped_low.item() == (slope == 0 and advantage < 0)


def test_delta_bounds_the_loss_of_a_bad_token_that_became_likely() -> None:
    # min(min(9, 4) * -1, 1.2 * -1) = -4, so the loss is 4 and not 9.
    result = clipped_surrogate(
        torch.tensor([[9.0]]), torch.tensor([[-1.0]]), clip_low=0.2, clip_high=0.2, max_ratio=4.0
    )
    assert result.loss.item() == 4.0


def test_a_clipped_weight_keeps_the_gradient_of_the_log_probability() -> None:
    # Ratio 9 is cut to 1 + 4 = 5: loss -5 * 2 * -1.5 = 15, slope -5 * 2 = -10.
    logps = torch.tensor([[-1.5]], requires_grad=True)
    ratios = (logps + 1.5 + torch.tensor(9.0).log()).exp()
    result = clipped_weight_surrogate(
        ratios, torch.tensor([[2.0]]), logps, clip_low=None, clip_high=4.0
    )
    result.loss.sum().backward()
    assert result.loss.item() == pytest.approx(15.0)
    assert logps.grad is not None
    assert logps.grad.item() == pytest.approx(-10.0)
    assert result.is_clipped_high.item()


def test_a_small_weight_is_raised_only_if_a_lower_bound_is_set() -> None:
    arguments = (torch.tensor([[0.1]]), torch.tensor([[1.0]]), torch.tensor([[-1.0]]))
    free = clipped_weight_surrogate(*arguments, clip_low=None, clip_high=4.0)
    bound = clipped_weight_surrogate(*arguments, clip_low=0.5, clip_high=4.0)
    assert (free.loss.item(), bound.loss.item()) == pytest.approx((0.1, 0.5))
    assert not free.is_clipped_low.item()
    assert bound.is_clipped_low.item()


@given(st.floats(-5, 5), st.floats(0, 1), st.floats(0, 5))
def test_no_bound_matters_at_ratio_one(advantage: float, clip_low: float, clip_high: float) -> None:
    ratios = torch.ones(1, 1, dtype=torch.float64)
    result = clipped_surrogate(
        ratios, torch.tensor([[advantage]]).double(), clip_low=clip_low, clip_high=clip_high
    )
    assert result.loss.item() == pytest.approx(-advantage, rel=1e-6)
    assert not (result.is_clipped_low | result.is_clipped_high).any()
