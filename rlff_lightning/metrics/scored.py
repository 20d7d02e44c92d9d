"""Scores of known rows, put in order and each counted once, whichever rank they come from."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlff_lightning.metrics.columns import ColumnMetric


class Scored(NamedTuple):
    """Rows that were scored, in order. N rows."""

    places: Tensor
    """Which rows they are, ``(N,)``, int64, ascending and distinct."""
    scores: Tensor
    """Of these rows, ``(N,)``."""


class ScoredRows(ColumnMetric):
    """Collect the score of every row; a sampler that repeats rows to fill a rank does no harm.

    Args:
        **kwargs: See ``torchmetrics.Metric``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__({"places": torch.int64, "scores": torch.float32}, **kwargs)

    def update(self, places: Tensor, scores: Tensor) -> None:
        """Keep scores.

        Args:
            places: Which rows they belong to, ``(B,)``, int, the same on every rank.
            scores: ``(B,)``.
        """
        self.keep(places=places, scores=scores)

    def compute(self) -> Scored:
        """Give the scored rows of all ranks, on the CPU."""
        places, scores = self.column("places").cpu(), self.column("scores").cpu()
        distinct, inverse = places.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        first = torch.full_like(distinct, len(places)).scatter_reduce(
            0, inverse, torch.arange(len(places)), "amin"
        )
        return Scored(distinct, scores[first])
