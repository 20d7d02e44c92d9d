"""BLEU of a corpus with its interval over dialogues; right under DDP."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.text import SacreBLEUScore

from rlff_lightning.functional.bleu import corpus_bleu
from rlff_lightning.functional.bootstrap import cluster_bootstrap
from rlff_lightning.metrics.by_dialogue import Bounded
from rlff_lightning.metrics.columns import ColumnMetric

_SIZES = (1, 2, 3, 4)


class Bleu(ColumnMetric):
    """Keeps every reply's n-gram counts, so that dialogues can be resampled.

    Words are sacrebleu's (13a), lower-cased.

    Args:
        **kwargs: See ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        counts = [f"{kind}_{size}" for kind in ("matches", "totals") for size in _SIZES]
        dtypes = dict.fromkeys([*counts, "said", "given"], torch.float64)
        super().__init__({**dtypes, "dialogue_ids": torch.int64}, **kwargs)
        self._counter = SacreBLEUScore(len(_SIZES), lowercase=True).set_dtype(torch.float64)

    def update(
        self, replies: Sequence[str], references: Sequence[str], dialogue_ids: Tensor
    ) -> None:
        """Count B replies beside their references; their dialogues are ``(B,)``, int."""
        rows = [self._count(*pair) for pair in zip(replies, references, strict=True)]
        counts = torch.stack(rows).to(self.device) if rows else torch.empty(0, 2 * len(_SIZES) + 2)
        names = list(self.columns)[:-1]
        self.keep(
            **dict(zip(names, counts.unbind(1), strict=True)),
            dialogue_ids=dialogue_ids.to(self.device),
        )

    def _count(self, reply: str, reference: str) -> Tensor:
        self._counter.reset()
        self._counter.update([reply], [[reference]])
        states = ("numerator", "denominator", "preds_len", "target_len")
        counts: list[Tensor] = [getattr(self._counter, name).reshape(-1) for name in states]
        return torch.cat(counts).cpu()

    def compute(self) -> dict[int, Bounded]:
        """Give BLEU-2 and BLEU-4 over all ranks, bounded by resampling dialogues."""
        rows = torch.stack([self.column(name).cpu() for name in list(self.columns)[:-1]], dim=1)
        dialogues = self.column("dialogue_ids").cpu()
        return {size: _bounded(rows, dialogues, size) for size in (2, 4)}


def _bounded(rows: Tensor, dialogues: Tensor, size: int) -> Bounded:
    def bleu(chosen: Tensor) -> float:
        sums = rows[chosen].sum(0)
        largest = len(_SIZES)
        return corpus_bleu(sums[:size], sums[largest : largest + size], sums[-2], sums[-1]).item()

    value = bleu(torch.arange(len(rows)))
    generator = torch.Generator().manual_seed(0)
    low, high = cluster_bootstrap(bleu, dialogues, generator=generator)
    return Bounded(value, low, high)
