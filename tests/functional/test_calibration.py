import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.errors import UserError
from rlff_lightning.functional.calibration import calibration_error, reliability

PREDICTIONS = torch.tensor([0.0, 0.1, 0.9, 1.0])
LABELS = torch.tensor([0.2, 0.1, 0.5, 0.4])


def test_reliability_compares_the_means_of_each_bin() -> None:
    # Bins [0, .5) and [.5, 1]: predictions .05 and .95, labels .15 and .45.
    predicted, observed, counts = reliability(PREDICTIONS, LABELS, num_bins=2)
    assert predicted.tolist() == pytest.approx([0.05, 0.95])
    assert observed.tolist() == pytest.approx([0.15, 0.45])
    assert counts.tolist() == [2, 2]


def test_calibration_error_weighs_bins_by_their_predictions() -> None:
    # (2 * .10 + 2 * .50) / 4 = .30.
    assert calibration_error(PREDICTIONS, LABELS, num_bins=2).item() == pytest.approx(0.3)


def test_empty_bins_are_left_out() -> None:
    assert reliability(PREDICTIONS, LABELS, num_bins=5).counts.tolist() == [2, 2]


def test_a_constant_prediction_is_one_bin() -> None:
    # |0.5 - mean(0, 2)| = 0.5.
    predictions, labels = torch.tensor([0.5, 0.5]), torch.tensor([0.0, 2.0])
    assert calibration_error(predictions, labels).item() == 0.5


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.integers(1, 9))
def test_predicting_the_labels_is_calibrated_and_a_shift_is_its_error(
    labels: list[float], num_bins: int
) -> None:
    exact = torch.tensor(labels, dtype=torch.float64)
    assert calibration_error(exact, exact, num_bins=num_bins).item() == pytest.approx(0, abs=1e-12)
    shifted = calibration_error(exact + 0.25, exact, num_bins=num_bins)
    assert shifted.item() == pytest.approx(0.25)


def test_no_prediction_is_no_error() -> None:
    assert calibration_error(torch.zeros(0), torch.zeros(0)) == 0


def test_no_bin_is_refused() -> None:
    with pytest.raises(UserError, match="num_bins must be at least 1, got 0"):
        calibration_error(PREDICTIONS, LABELS, num_bins=0)
