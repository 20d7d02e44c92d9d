"""Figures with intervals over dialogues: turns of one dialogue are no independent evidence."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from rlff_lightning.functional.bootstrap import cluster_bootstrap
from rlff_lightning.metrics.columns import ColumnMetric


class Bounded(NamedTuple):
    """A figure and its 95 % interval over dialogues."""

    value: float
    """What was measured; nan where it is not defined."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""

    def named(self, name: str) -> dict[str, float]:
        """Give the figure as ``name``, ``name_low`` and ``name_high``."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


class RankCorrelation(ColumnMetric):
    """Spearman correlation of scores and labels, bounded by resampling dialogues.

    Args:
        **kwargs: See ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        dtypes = {"scores": torch.float32, "labels": torch.float32, "dialogue_ids": torch.int64}
        super().__init__(dtypes, **kwargs)

    def update(self, scores: Tensor, labels: Tensor, dialogue_ids: Tensor) -> None:
        """Keep replies.

        Args:
            scores: Predicted rewards, ``(B,)``.
            labels: True rewards, ``(B,)``.
            dialogue_ids: The dialogue of each, ``(B,)``, int, the same on every rank.
        """
        self.keep(scores=scores, labels=labels, dialogue_ids=dialogue_ids)

    def compute(self) -> Bounded:
        """Correlate over all ranks; nan if scores or labels do not vary."""
        scores, labels = self.column("scores").cpu(), self.column("labels").cpu()
        dialogues = self.column("dialogue_ids").cpu()

        def correlation(rows: Tensor) -> float:
            return _spearman(scores[rows], labels[rows])

        value = correlation(torch.arange(len(scores)))
        low, high = cluster_bootstrap(correlation, dialogues, generator=_generator())
        return Bounded(value, low, high)


def mean_by_dialogue(values: Tensor, dialogue_ids: Tensor) -> Bounded:
    """Average values, bounded by resampling dialogues.

    Args:
        values: ``(B,)``.
        dialogue_ids: The dialogue of each, ``(B,)``, int.
    """

    def mean(rows: Tensor) -> float:
        return values[rows].mean().item()

    low, high = cluster_bootstrap(mean, dialogue_ids, generator=_generator())
    return Bounded(values.mean().item(), low, high)


def _spearman(scores: Tensor, labels: Tensor) -> float:
    if len(scores) < 2 or scores.min() == scores.max() or labels.min() == labels.max():
        return torch.nan
    return spearman_corrcoef(scores, labels).item()


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
