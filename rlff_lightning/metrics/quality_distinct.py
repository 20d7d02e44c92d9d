"""Variety of all replies together, whichever rank they were written on."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlff_lightning.errors import UserError
from rlff_lightning.functional.diversity import ngrams
from rlff_lightning.functional.jackknife import jackknife_interval
from rlff_lightning.metrics.by_dialogue import Bounded
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
        super().__init__({"grams": torch.int64, "dialogue_ids": torch.int64}, **kwargs)
        self.size = size

    def update(self, texts: Sequence[Sequence[str]], dialogue_ids: Tensor) -> None:
        """Keep the n-grams of B replies, given as words, and their dialogues, ``(B,)``, int."""
        found = [[_number(gram) for gram in ngrams(words, self.size)] for words in texts]
        grams = [number for numbers in found for number in numbers]
        counts = torch.tensor([len(numbers) for numbers in found], dtype=torch.int64)
        self.keep(
            grams=torch.tensor(grams, dtype=torch.int64, device=self.device),
            dialogue_ids=dialogue_ids.cpu().repeat_interleave(counts).to(self.device),
        )

    def compute(self) -> Bounded:
        """Count over all ranks; 0 without any n-gram. Bounded by leaving out dialogues."""
        grams, dialogues = self.column("grams").cpu(), self.column("dialogue_ids").cpu()
        if not len(grams):
            return Bounded(0.0, -torch.inf, torch.inf)
        types, numbers = torch.unique(grams, return_inverse=True)
        names, places = torch.unique(dialogues, return_inverse=True)
        value = len(types) / len(grams)
        first = torch.full((len(types),), len(names)).scatter_reduce(0, numbers, places, "amin")
        last = torch.full((len(types),), -1).scatter_reduce(0, numbers, places, "amax")
        # Types that no other dialogue has go with their dialogue.
        own = torch.bincount(first[first == last], minlength=len(names))
        left = len(grams) - torch.bincount(places, minlength=len(names))
        without = ((len(types) - own) / left.clamp(min=1)).tolist()
        low, high = jackknife_interval(value, without)
        # A single dialogue bounds nothing.
        is_bounded = len(names) > 1
        return Bounded(
            value, max(low, 0.0) if is_bounded else low, min(high, 1.0) if is_bounded else high
        )


def _number(gram: tuple[str, ...]) -> int:
    """Name an n-gram by 64 bits, the same on every rank, for strings cannot be gathered."""
    digest = hashlib.blake2b("\x1f".join(gram).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
