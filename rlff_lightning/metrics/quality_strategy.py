"""Which support strategies replies follow, and how often it is the one that a human chose."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from rlff_lightning.types import Message

_SEPARATOR = ", "


def gold_strategies(reply: Message) -> list[str]:
    """List the strategies that a source gives for a turn; a merged turn may have several."""
    return [name for name in reply.strategy.split(_SEPARATOR) if name]


def followed_strategy(reply: Message, names: Sequence[str]) -> str | None:
    """Say which strategy a policy's reply follows.

    Args:
        reply: A reply; its ``strategy`` counts first, then what its reasoning names.
        names: Strategies to tell apart.

    Returns:
        The one that is named, letter case aside; none if that is none or several.
    """
    text = (reply.strategy or reply.reasoning).casefold()
    # "Reflection of feelings" also says "Feelings": the longer name covers the shorter.
    longest_first = sorted(names, key=len, reverse=True)
    pattern = "|".join(re.escape(name.casefold()) for name in longest_first)
    # Not \b, which after a name's own bracket, as in "(RS)", would want a letter.
    found = set(re.findall(rf"(?<!\w)(?:{pattern})(?!\w)", text)) if names else set()
    if len(found) != 1:
        return None
    return next(name for name in names if name.casefold() in found)


class StrategyShares(Metric):
    """Share of replies that follow each strategy.

    Args:
        num_strategies: Strategies to tell apart, S.
        **kwargs: See ``torchmetrics.Metric``.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_strategies: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        empty = torch.zeros(num_strategies + 1, dtype=torch.int64)
        self.add_state("counts", empty, dist_reduce_fx="sum")

    def update(self, strategies: Tensor) -> None:
        """Count replies.

        Args:
            strategies: Index of each reply's strategy, ``(B,)``, int; S if it names none.
        """
        self.counts += torch.bincount(strategies.to(self.device), minlength=len(self.counts))

    def compute(self) -> Tensor:
        """Give shares over all ranks, ``(S + 1,)``; they sum to 1, or are all 0 without replies."""
        return self.counts.double() / self.counts.sum().clamp(min=1)
