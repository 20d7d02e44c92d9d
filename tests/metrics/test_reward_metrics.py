import math

import pytest
import torch

from rlff_lightning.metrics.reward import (
    CalibrationError,
    RewardQuality,
    WithinContextCeiling,
    WithinContextPairwiseAccuracy,
)

# Context 7: labels 0 < 1, scored right. Context 8: labels 2 > 1, scored wrong. Contexts are
# spread over batches.
SCORES = torch.tensor([0.1, 0.2, 0.5, 0.4])
LABELS = torch.tensor([0.0, 2.0, 1.0, 1.0])
CONTEXT_IDS = torch.tensor([7, 8, 7, 8])
STANDARD_ERRORS = torch.tensor([0.6, 0.0, 0.8, 1.0])
BATCHES = [slice(0, 2), slice(2, 4)]


def test_siblings_from_different_batches_are_compared() -> None:
    metric = WithinContextPairwiseAccuracy()
    for batch in BATCHES:
        metric.update(SCORES[batch], LABELS[batch], CONTEXT_IDS[batch])
    assert metric.compute().item() == 0.5


def test_ceiling_averages_over_pairs() -> None:
    # Both differences are 1 sigma: Phi(1) = 0.841345.
    metric = WithinContextCeiling()
    for batch in BATCHES:
        metric.update(LABELS[batch], STANDARD_ERRORS[batch], CONTEXT_IDS[batch])
    assert metric.compute().item() == pytest.approx(0.841345, abs=1e-6)


def test_calibration_error_sees_all_batches() -> None:
    # Bins [.1, .3) and [.3, .5]: means .15 and .45 against labels 1 and 1.
    metric = CalibrationError(num_bins=2)
    for batch in BATCHES:
        metric.update(SCORES[batch], LABELS[batch])
    assert metric.compute().item() == pytest.approx((0.85 + 0.55) / 2)
    assert metric.plot_points().predicted.tolist() == pytest.approx([0.15, 0.45])


def test_metrics_forget_on_reset_and_take_new_data() -> None:
    metric = WithinContextPairwiseAccuracy()
    metric.update(-LABELS, LABELS, CONTEXT_IDS)
    metric.reset()
    metric.update(LABELS, LABELS, CONTEXT_IDS)
    assert metric.compute().item() == 1.0


def test_quality_names_every_figure() -> None:
    # Errors .1, -1.8, -.5, -.6: MSE (.01 + 3.24 + .25 + .36) / 4 = .965. Ranks of labels are
    # 1, 4, 2.5, 2.5 and of scores 1, 2, 4, 3: covariance 1.5, variances 4.5 and 5, so .316228.
    # Pearson: deviations -.2 -.1 .2 .1 and -1 1 0 0: .1 / sqrt(.1 * 2) = .223607.
    quality = RewardQuality(num_bins=2)
    for batch in BATCHES:
        quality.update(SCORES[batch], LABELS[batch], STANDARD_ERRORS[batch], CONTEXT_IDS[batch])
    assert quality.compute() == pytest.approx(
        {
            "mse": 0.965,
            "pearson": 0.1 / math.sqrt(0.2),
            "spearman": 1.5 / math.sqrt(4.5 * 5),
            "pairwise_accuracy": 0.5,
            "pairwise_ceiling": 0.841345,
            "calibration_error": 0.7,
        },
        abs=1e-5,
    )
    quality.reset()
    quality.update(LABELS, LABELS, STANDARD_ERRORS, CONTEXT_IDS)
    assert quality.compute()["mse"] == 0
