import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.functional.ratios import mismatch_weights, sequence_ratios, token_ratios

TRAINS = torch.tensor([[True, True, False]])


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def test_token_ratio_is_the_quotient_of_probabilities() -> None:
    ratios = token_ratios(logs(0.4, 0.1, 0.9), logs(0.2, 0.2, 0.1), TRAINS)
    assert ratios[0].tolist() == pytest.approx([2.0, 0.5, 1.0])


def test_sequence_ratio_is_the_geometric_mean_of_the_counted_tokens() -> None:
    # Token ratios 8 and 2, the third is masked: sqrt(16) = 4.
    ratios = sequence_ratios(logs(0.8, 0.2, 0.9), logs(0.1, 0.1, 0.1), TRAINS)
    assert ratios[0].tolist() == pytest.approx([4.0, 4.0, 1.0])


def test_sequence_ratio_spreads_its_gradient_evenly() -> None:
    # ds/dlogp_t = s / |y| = 1 / 2 at s = 1; each entry of the row is the same s, here summed.
    logps = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    sequence_ratios(logps, logps.detach(), TRAINS)[0, 0].backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [[0.5, 0.5, 0.0]]


@given(st.lists(st.floats(-50, 0), min_size=3, max_size=3))
def test_every_ratio_is_exactly_one_before_the_first_update(row: list[float]) -> None:
    logps = torch.tensor([row], dtype=torch.float32)
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert token_ratios(logps, logps, mask).tolist() == [[1.0] * 3]
    assert sequence_ratios(logps, logps, mask).tolist() == [[1.0] * 3]


@pytest.mark.parametrize("ratio", [token_ratios, sequence_ratios])
def test_masked_garbage_reaches_neither_ratio_nor_gradient(ratio) -> None:  # type: ignore[no-untyped-def]
    logps = torch.tensor([[-1.0, -2.0, -math.inf]], requires_grad=True)
    ratios = ratio(logps, torch.tensor([[-1.0, -1.0, math.nan]]), TRAINS)
    assert ratios[0, 2] == 1.0
    ratios.sum().backward()
    assert logps.grad is not None
    assert logps.grad.isfinite().all()


def test_a_ratio_beyond_float32_has_a_finite_gradient() -> None:
    logps = torch.tensor([[0.0, 0.0, 0.0]], requires_grad=True)
    token_ratios(logps, logps.detach() - 100, TRAINS).sum().backward()
    assert logps.grad is not None
    assert logps.grad.isfinite().all()


def test_mismatch_weights_are_capped_and_the_raw_ratio_is_kept() -> None:
    # Trainer over engine: 0.6 / 0.2 = 3, cut to 2; 0.1 / 0.2 = 0.5, kept.
    result = mismatch_weights(logs(0.6, 0.1, 0.9), logs(0.2, 0.2, 0.1), TRAINS, cap=2.0)
    assert result.weights[0].tolist() == pytest.approx([2.0, 0.5, 1.0])
    assert result.ratios[0].tolist() == pytest.approx([3.0, 0.5, 1.0])
    assert result.is_capped.tolist() == [[True, False, False]]
    assert result.is_dropped.tolist() == [False]


def test_a_sequence_far_off_in_the_geometric_mean_is_dropped_whole() -> None:
    # Row 0: ratios 4 and 1, mean sqrt(4) = 2, outside [0.5, 1.9]. Row 1: 4 and 1/4, mean 1.
    old_logps = torch.cat([logs(0.8, 0.2), logs(0.8, 0.2)])
    sampling_logps = torch.cat([logs(0.2, 0.2), logs(0.2, 0.8)])
    mask = torch.ones(2, 2, dtype=torch.bool)
    result = mismatch_weights(old_logps, sampling_logps, mask, cap=2.0, sequence_range=(0.5, 1.9))
    assert result.is_dropped.tolist() == [True, False]
    assert result.weights[0].tolist() == [0.0, 0.0]
    assert result.weights[1].tolist() == pytest.approx([2.0, 0.25])


def test_without_a_cap_kept_tokens_weigh_one() -> None:
    result = mismatch_weights(logs(0.6, 0.1, 0.9), logs(0.2, 0.2, 0.1), TRAINS, cap=None)
    assert result.weights.tolist() == [[1.0, 1.0, 1.0]]
