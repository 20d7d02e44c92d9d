"""How good a reward model is; right under DDP, whichever rank a candidate was scored on."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.regression import MeanSquaredError, PearsonCorrCoef, SpearmanCorrCoef

from rlff_lightning.functional.calibration import Reliability, calibration_error, reliability
from rlff_lightning.functional.ranking import pairwise_accuracy, pairwise_ceiling
from rlff_lightning.metrics.columns import ColumnMetric


class WithinContextPairwiseAccuracy(ColumnMetric):
    """How often the better of two candidates of one context is scored higher; see ``ranking``.

    Args:
        **kwargs: See ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        dtypes = {"scores": torch.float32, "labels": torch.float32, "context_ids": torch.int64}
        super().__init__(dtypes, **kwargs)

    def update(self, scores: Tensor, labels: Tensor, context_ids: Tensor) -> None:
        """Keep candidates; siblings may come in different batches and ranks.

        Args:
            scores: Predicted rewards, ``(B,)``.
            labels: True rewards, ``(B,)``.
            context_ids: The context of each, ``(B,)``, int, the same on every rank.
        """
        self.keep(scores=scores, labels=labels, context_ids=context_ids)

    def compute(self) -> Tensor:
        """Average over pairs of one context with different labels; nan without any."""
        return pairwise_accuracy(
            self.column("scores"), self.column("labels"), self.column("context_ids")
        )


class WithinContextCeiling(ColumnMetric):
    """The pairwise accuracy that knowing the truth would reach on labels this noisy.

    Args:
        **kwargs: See ``torchmetrics.Metric``.
    """

    def __init__(self, **kwargs: Any) -> None:
        dtypes = {
            "labels": torch.float32,
            "standard_errors": torch.float32,
            "context_ids": torch.int64,
        }
        super().__init__(dtypes, **kwargs)

    def update(self, labels: Tensor, standard_errors: Tensor, context_ids: Tensor) -> None:
        """Keep labels.

        Args:
            labels: Measured rewards, ``(B,)``.
            standard_errors: Of the labels, ``(B,)``.
            context_ids: The context of each, ``(B,)``, int, the same on every rank.
        """
        self.keep(labels=labels, standard_errors=standard_errors, context_ids=context_ids)

    def compute(self) -> Tensor:
        """Average over pairs of one context with different labels; nan without any."""
        return pairwise_ceiling(
            self.column("labels"), self.column("standard_errors"), self.column("context_ids")
        )


class CalibrationError(ColumnMetric):
    """How far predictions of similar height are off on average; see ``calibration``.

    Args:
        num_bins: Bins between the lowest and the highest prediction.
        **kwargs: See ``torchmetrics.Metric``.
    """

    higher_is_better = False

    def __init__(self, num_bins: int = 10, **kwargs: Any) -> None:
        super().__init__({"predictions": torch.float32, "labels": torch.float32}, **kwargs)
        self.num_bins = num_bins

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Keep predictions.

        Args:
            predictions: ``(B,)``.
            labels: ``(B,)``, in the same unit.
        """
        self.keep(predictions=predictions, labels=labels)

    def compute(self) -> Tensor:
        """Average over bins, weighted by their predictions."""
        return calibration_error(
            self.column("predictions"), self.column("labels"), num_bins=self.num_bins
        )

    def plot_points(self) -> Reliability:
        """Give the points of this rank's reliability plot."""
        return reliability(
            self.column("predictions"), self.column("labels"), num_bins=self.num_bins
        )


class RewardQuality(nn.Module):
    """Every figure of a reward model, as one flat dictionary.

    Args:
        num_bins: Bins of the calibration error.
        **kwargs: See ``torchmetrics.Metric``; ``sync_on_compute=False`` where every rank holds all.
    """

    def __init__(self, num_bins: int = 10, **kwargs: Any) -> None:
        super().__init__()
        self.mse = MeanSquaredError(**kwargs)
        self.pearson = PearsonCorrCoef(**kwargs)
        self.spearman = SpearmanCorrCoef(**kwargs)
        self.pairwise_accuracy = WithinContextPairwiseAccuracy(**kwargs)
        self.pairwise_ceiling = WithinContextCeiling(**kwargs)
        self.calibration_error = CalibrationError(num_bins, **kwargs)

    def update(
        self, scores: Tensor, labels: Tensor, standard_errors: Tensor, context_ids: Tensor
    ) -> None:
        """Take in candidates.

        Args:
            scores: Predicted rewards, ``(B,)``.
            labels: Measured rewards, ``(B,)``.
            standard_errors: Of the labels, ``(B,)``.
            context_ids: The context of each, ``(B,)``, int, the same on every rank.
        """
        if not len(scores):
            return  # torchmetrics' correlations refuse an empty batch
        scores, labels = scores.float(), labels.float()
        self.mse.update(scores, labels)
        self.pearson.update(scores, labels)
        self.spearman.update(scores, labels)
        self.pairwise_accuracy.update(scores, labels, context_ids)
        self.pairwise_ceiling.update(labels, standard_errors, context_ids)
        self.calibration_error.update(scores, labels)

    def compute(self) -> dict[str, float]:
        """Give every figure over all ranks.

        Returns:
            ``mse``, ``pearson``, ``spearman``, ``pairwise_accuracy``, ``pairwise_ceiling``,
            ``calibration_error``.
        """
        return {
            "mse": float(self.mse.compute()),
            "pearson": float(self.pearson.compute()),
            "spearman": float(self.spearman.compute()),
            "pairwise_accuracy": float(self.pairwise_accuracy.compute()),
            "pairwise_ceiling": float(self.pairwise_ceiling.compute()),
            "calibration_error": float(self.calibration_error.compute()),
        }

    def reset(self) -> None:
        """Forget all candidates."""
        for metric in (
            self.mse,
            self.pearson,
            self.spearman,
            self.pairwise_accuracy,
            self.pairwise_ceiling,
            self.calibration_error,
        ):
            metric.reset()
