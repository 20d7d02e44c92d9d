"""Whether predicted rewards mean what they say, level by level."""

from typing import NamedTuple

import torch
from torch import Tensor

from rlff_lightning.errors import UserError
from rlff_lightning.functional.masked import masked_mean


class Reliability(NamedTuple):
    """A reliability plot: bins of equal width from low to high; all ``(bins,)``."""

    predicted: Tensor
    """Mean prediction of each bin."""
    observed: Tensor
    """Mean label of each bin."""
    counts: Tensor
    """Predictions in each bin, int64."""


def reliability(predictions: Tensor, labels: Tensor, *, num_bins: int = 10) -> Reliability:
    """Compare mean prediction and mean label among predictions of similar height.

    Args:
        predictions: ``(N,)``.
        labels: ``(N,)``, in the same unit.
        num_bins: Bins between the lowest and the highest prediction, at least 1.

    Returns:
        The points of the plot; empty bins are left out.

    Raises:
        UserError: If the shapes differ or there is no bin.
    """
    if predictions.shape != labels.shape or predictions.dim() != 1:
        raise UserError(
            f"predictions and labels must both be (N,), got {tuple(predictions.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if num_bins < 1:
        raise UserError(f"reliability.num_bins must be at least 1, got {num_bins!r}")
    if not len(predictions):
        return Reliability(predictions, labels, predictions.new_zeros(0, dtype=torch.int64))
    low, high = predictions.min(), predictions.max()
    width = torch.where(high > low, high - low, 1.0)
    bins = ((predictions - low) / width * num_bins).long().clamp(max=num_bins - 1)
    is_member = bins == torch.arange(num_bins, device=bins.device)[:, None]
    counts = is_member.sum(dim=1)
    is_filled = counts > 0
    predicted = masked_mean(predictions.expand(num_bins, -1), is_member, dim=1)
    observed = masked_mean(labels.expand(num_bins, -1), is_member, dim=1)
    return Reliability(predicted[is_filled], observed[is_filled], counts[is_filled])


def calibration_error(predictions: Tensor, labels: Tensor, *, num_bins: int = 10) -> Tensor:
    """Average how far predictions of similar height are off, weighted by their number.

    ECE = sum_b n_b / N |mean prediction_b - mean label_b|

    Args:
        predictions: ``(N,)``.
        labels: ``(N,)``, in the same unit.
        num_bins: Bins between the lowest and the highest prediction.

    Returns:
        A scalar in the labels' unit, at least 0; 0 without predictions.

    Raises:
        UserError: If the shapes differ or there is no bin.

    Source: Naeini et al. 2015, AAAI 29(1), for probabilities; here for values.
    """
    predicted, observed, counts = reliability(predictions, labels, num_bins=num_bins)
    return ((predicted - observed).abs() * counts).sum() / max(len(predictions), 1)
