"""What a judge makes of replies: ratings by dimension, and one policy against another."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlff_lightning.functional.intervals import clustered_share_interval
from rlff_lightning.functional.preferences import Preference, follows_place, settled
from rlff_lightning.metrics.columns import ColumnMetric
from rlff_lightning.metrics.quality import MeanByDialogue


class RatedReplies(nn.Module):
    """Mean rating of replies on each dimension; what could not be read is counted and left out.

    Args:
        dimensions: Their names.
    """

    def __init__(self, dimensions: Sequence[str]) -> None:
        super().__init__()
        self.means = nn.ModuleDict({name: MeanByDialogue() for name in dimensions})
        self.unparsed = MeanByDialogue()

    def update(self, ratings: Sequence[Mapping[str, int | None]], dialogue_ids: Tensor) -> None:
        """Take in the ratings of B replies, by dimension, and their dialogues, ``(B,)``, int."""
        for name, mean in self.means.items():
            assert isinstance(mean, MeanByDialogue)
            values = [rating[name] for rating in ratings]
            is_read = torch.tensor([value is not None for value in values], dtype=torch.bool)
            numbers = torch.tensor([float(value or 0) for value in values], dtype=torch.float64)
            mean.update(numbers[is_read], dialogue_ids[is_read])
            self.unparsed.update((~is_read).double(), dialogue_ids)

    def compute(self) -> dict[str, float]:
        """Give ``judged/NAME`` with ``_low`` and ``_high``, and the share ``judged/unparsed``."""
        figures: dict[str, float] = {}
        for name, mean in self.means.items():
            assert isinstance(mean, MeanByDialogue)
            figures |= mean.compute().named(f"judged/{name}")
        return figures | {"judged/unparsed": self.unparsed.compute().value}


class PairwisePreference(ColumnMetric):
    """How often a judge who is shown every pair in both orders prefers the first policy's reply.

    Args:
        **kwargs: See ``torchmetrics.Metric``.
    """

    def __init__(self, **kwargs: Any) -> None:
        dtypes = {"scores": torch.float64, "places": torch.int64, "dialogue_ids": torch.int64}
        super().__init__(dtypes, **kwargs)

    def update(
        self,
        straight: Sequence[Preference | None],
        swapped: Sequence[Preference | None],
        dialogue_ids: Tensor,
    ) -> None:
        """Take in B pairs.

        Args:
            straight: Verdicts with the first policy's reply shown first; ``None`` is unparsed.
            swapped: Verdicts with the second policy's reply shown first.
            dialogue_ids: The dialogue of each, ``(B,)``, int, the same on every rank.
        """
        pairs = list(zip(straight, swapped, strict=True))
        scores = [settled(one, other) if one and other else torch.nan for one, other in pairs]
        places = [bool(one and other and follows_place(one, other)) for one, other in pairs]
        self.keep(
            scores=torch.tensor(scores, dtype=torch.float64, device=self.device),
            places=torch.tensor(places, dtype=torch.int64, device=self.device),
            dialogue_ids=dialogue_ids.to(self.device),
        )

    def compute(self) -> dict[str, float]:
        """Count over all ranks.

        Returns:
            ``pairs`` that were read, ``unparsed`` ones; ``wins``, ``losses`` and ``ties`` of the
            first policy; among the ties ``torn``, whose verdict followed the place; ``win_rate``,
            a tie counting half, with ``_low`` and ``_high``; nan without a pair.
        """
        scores, dialogues = self.column("scores").cpu(), self.column("dialogue_ids").cpu()
        is_read = ~scores.isnan()
        unparsed = int((~is_read).sum())
        scores, dialogues = scores[is_read], dialogues[is_read]
        # The order of ranks must not show in the last bit.
        order = torch.argsort(scores, stable=True)
        order = order[torch.argsort(dialogues[order], stable=True)]
        values, names = scores[order].tolist(), dialogues[order].tolist()
        low, high = clustered_share_interval(values, names)
        return {
            "pairs": len(values),
            "unparsed": unparsed,
            "wins": values.count(1.0),
            "losses": values.count(0.0),
            "ties": values.count(0.5),
            "torn": int(self.column("places").sum()),
            "win_rate": sum(values) / len(values) if values else torch.nan,
            "win_rate_low": low,
            "win_rate_high": high,
        }
