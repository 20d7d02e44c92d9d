"""Variety of all replies together, whichever rank they were written on."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlff_lightning.errors import UserError
from rlff_lightning.functional.diversity import ngrams
from rlff_lightning.metrics.columns import ColumnMetric


class Distinct(ColumnMetric):
    """Share of different n-grams among all n-grams of all replies; see ``diversity.distinct``.

    Args:
        size: Words of an n-gram, n.
        **kwargs: See ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(self, size: int, **kwargs: Any) -> None:
        if size < 1:
            raise UserError(f"Distinct.size must be at least 1, got {size!r}")
        super().__init__({"grams": torch.int64}, **kwargs)
        self.size = size

    def update(self, texts: Sequence[Sequence[str]]) -> None:
        """Keep the n-grams of replies, given as words."""
        grams = [_number(gram) for words in texts for gram in ngrams(words, self.size)]
        self.keep(grams=torch.tensor(grams, dtype=torch.int64, device=self.device))

    def compute(self) -> Tensor:
        """Count over all ranks; 0 without any n-gram."""
        grams = self.column("grams")
        return torch.tensor(len(torch.unique(grams)) / max(len(grams), 1), dtype=torch.float64)


def _number(gram: tuple[str, ...]) -> int:
    """Name an n-gram by 64 bits, the same on every rank, for strings cannot be gathered."""
    digest = hashlib.blake2b("\x1f".join(gram).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
