"""How replies read, alone and beside the reply that a human gave; right under DDP."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlff_lightning.functional.diversity import repetition
from rlff_lightning.metrics.by_dialogue import Bounded, mean_by_dialogue
from rlff_lightning.metrics.columns import ColumnMetric
from rlff_lightning.metrics.quality_bleu import Bleu
from rlff_lightning.metrics.quality_distinct import Distinct
from rlff_lightning.metrics.quality_strategy import (
    StrategyShares,
    followed_strategy,
    gold_strategies,
)
from rlff_lightning.metrics.quality_text import Likeness, rouge_l, words
from rlff_lightning.types import Message

UNNAMED = "(none named)"
"""Stands for the strategy of a reply that names none, or several."""

_REPEATED_WORDS = 3


class MeanByDialogue(ColumnMetric):
    """Mean of a number per reply, bounded by resampling dialogues.

    Args:
        **kwargs: See ``torchmetrics.Metric``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__({"values": torch.float64, "dialogue_ids": torch.int64}, **kwargs)

    def update(self, values: Tensor, dialogue_ids: Tensor) -> None:
        """Keep numbers.

        Args:
            values: ``(B,)``.
            dialogue_ids: The dialogue of each, ``(B,)``, int, the same on every rank.
        """
        self.keep(values=values.to(self.device), dialogue_ids=dialogue_ids.to(self.device))

    def compute(self) -> Bounded:
        """Average over all ranks; nan without replies."""
        values, dialogues = self.column("values").cpu(), self.column("dialogue_ids").cpu()
        # Ranks hold rows in another order than one process would: resampling must not see it.
        order = torch.argsort(values, stable=True)
        order = order[torch.argsort(dialogues[order], stable=True)]
        return mean_by_dialogue(values[order], dialogues[order])


class ReplyForm(nn.Module):
    """What can be said of replies without a reference: length, repetition, variety, strategies.

    Args:
        strategies: Strategies to tell apart; none for no distribution.
    """

    def __init__(self, strategies: Sequence[str] = ()) -> None:
        super().__init__()
        self.names = list(strategies)
        self.words = MeanByDialogue()
        self.repetition = MeanByDialogue()
        self.distinct_1, self.distinct_2 = Distinct(1), Distinct(2)
        self.empty = MeanByDialogue()
        self.shares = StrategyShares(len(self.names))

    def update(self, replies: Sequence[Message], dialogue_ids: Tensor) -> None:
        """Take in replies.

        Args:
            replies: B replies.
            dialogue_ids: The dialogue of each, ``(B,)``, int, the same on every rank.
        """
        texts = [words(reply.text) for reply in replies]
        self.words.update(_column([len(text) for text in texts]), dialogue_ids)
        repeated = [repetition(text, _REPEATED_WORDS) for text in texts]
        self.repetition.update(_column(repeated), dialogue_ids)
        self.distinct_1.update(texts, dialogue_ids)
        self.distinct_2.update(texts, dialogue_ids)
        self.empty.update(_column([not text for text in texts]), dialogue_ids)
        followed = [followed_strategy(reply, self.names) for reply in replies]
        places = [self.names.index(name) if name else len(self.names) for name in followed]
        self.shares.update(torch.tensor(places, dtype=torch.int64))

    def compute(self) -> dict[str, float]:
        """Give every figure over all ranks.

        Returns:
            ``words``, ``repetition`` (of three words within a reply), ``distinct_1`` and
            ``distinct_2`` with ``_low`` and ``_high``; ``empty``, the share of replies without a
            word; ``strategy_share/{name}`` if there are strategies, of replies that name none too.
        """
        shares = self.shares.compute().tolist() if self.names else []
        return {
            **self.words.compute().named("words"),
            **self.repetition.compute().named("repetition"),
            **self.distinct_1.compute().named("distinct_1"),
            **self.distinct_2.compute().named("distinct_2"),
            "empty": self.empty.compute().value,
            **{
                f"strategy_share/{name}": share
                for name, share in zip([*self.names, UNNAMED], shares, strict=False)
            },
        }


class ReferenceLikeness(nn.Module):
    """How like the human's replies are to those that a human gave in the same context.

    BLEU is of the corpus, in sacrebleu's words (13a, lower-cased) and not smoothed: 0 if no n-gram
    of the longest size is shared. All others are means over replies.

    Args:
        likenesses: Further measures by name, beside BLEU-2, BLEU-4 and ROUGE-L.
        strategies: Strategies to tell apart; none for no accuracy.
    """

    def __init__(
        self, likenesses: dict[str, Likeness] | None = None, strategies: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.names = list(strategies)
        self.likenesses: dict[str, Likeness] = {"rouge_l": rouge_l, **(likenesses or {})}
        self.bleu = Bleu()
        self.means = nn.ModuleDict({name: MeanByDialogue() for name in self.likenesses})
        self.strategy_accuracy = MeanByDialogue()

    def update(
        self, replies: Sequence[Message], references: Sequence[Message], dialogue_ids: Tensor
    ) -> None:
        """Take in replies beside their references.

        Args:
            replies: B replies.
            references: The human's reply to each context, B.
            dialogue_ids: The dialogue of each, ``(B,)``, int, the same on every rank.
        """
        texts = [reply.text for reply in replies]
        human = [reference.text for reference in references]
        self.bleu.update(texts, human, dialogue_ids)
        for name, likeness in self.likenesses.items():
            values = [likeness(*pair) for pair in zip(texts, human, strict=True)]
            self._mean(name).update(_column(values), dialogue_ids)
        listed = {name.casefold() for name in self.names}
        gold = [
            listed & {name.casefold() for name in gold_strategies(reference)}
            for reference in references
        ]
        is_right = [
            (followed_strategy(reply, self.names) or "").casefold() in names
            for reply, names in zip(replies, gold, strict=True)
        ]
        has_gold = torch.tensor([bool(names) for names in gold], dtype=torch.bool)
        self.strategy_accuracy.update(_column(is_right)[has_gold], dialogue_ids[has_gold])

    def compute(self) -> dict[str, float]:
        """Give every figure over all ranks, 0 to 1.

        Returns:
            ``bleu_2``, ``bleu_4``, ``rouge_l`` and the further measures with ``_low`` and
            ``_high``; ``strategy_accuracy`` likewise, over replies whose human chose one of the
            strategies, if there are strategies.
        """
        figures: dict[str, float] = {}
        for size, bleu in self.bleu.compute().items():
            figures |= bleu.named(f"bleu_{size}")
        for name in self.likenesses:
            figures |= self._mean(name).compute().named(name)
        if self.names:
            figures |= self.strategy_accuracy.compute().named("strategy_accuracy")
        return figures

    def _mean(self, name: str) -> MeanByDialogue:
        mean = self.means[name]
        assert isinstance(mean, MeanByDialogue)
        return mean


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
