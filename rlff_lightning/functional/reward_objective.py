"""What every reward loss does: a loss and a weight per reply, whose sums are divided at the end.

The loss of an update is ``sum w l / sum w`` over all replies of its accumulation window on all
ranks; a micro-batch gives its part of both sums.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

Target = Literal["regression", "outcomes", "binary"]
"""What a head must predict for a loss; the kinds of a reward model's head."""


class RewardLabels(NamedTuple):
    """Labels of a micro-batch. B replies; all candidates of a context are in it."""

    values: Tensor
    """Future-oriented rewards y, ``(B,)``."""
    standard_errors: Tensor
    """Of the values, ``(B,)``, at least 0."""
    context_ids: Tensor
    """The same number for replies to one context, ``(B,)``, int."""
    turn_values: Tensor
    """Critic values of every turn of every future, ``(B, T)``."""
    turn_mask: Tensor
    """Turns that took place, ``(B, T)``; none where the futures are not known."""
    targets: Tensor
    """What a regression should predict of the values, ``(B,)``; see ``label_scale``."""


class RewardSums(NamedTuple):
    """A micro-batch's part of the window's mean; both scalars, and both add up."""

    loss: Tensor
    """sum w l."""
    size: Tensor
    """sum w."""


class RewardLoss(ABC):
    """What a reward model minimises."""

    __slots__ = ()
    target: ClassVar[Target] = "regression"
    """What the head must predict."""
    needs_siblings: ClassVar[bool] = False
    """It learns nothing from a context with a single reply."""
    class_values: tuple[float, ...] = ()
    """Value of each outcome that the head tells apart, if it does."""

    @abstractmethod
    def rows(self, outputs: Tensor, labels: RewardLabels) -> Tensor:
        """Form the loss of each reply.

        Args:
            outputs: What the head predicts, ``(B, num_outputs)``, with gradient.
            labels: Of the same replies.

        Returns:
            ``(B,)``.
        """

    def weights(self, labels: RewardLabels) -> Tensor:
        """Say how much each reply counts, ``(B,)``, at least 0."""
        return torch.ones_like(labels.values)

    def sums(
        self, outputs: Tensor, labels: RewardLabels, is_drawn: Tensor | None = None
    ) -> RewardSums:
        """Give a micro-batch's part of the window's two sums.

        Args:
            outputs: What the head predicts, ``(B, num_outputs)``, with gradient.
            labels: Of the same replies.
            is_drawn: Replies that count, whole contexts at a time, ``(B,)``; ``None`` counts all.
        """
        weights = self.weights(labels)
        if is_drawn is not None:
            weights = torch.where(is_drawn, weights, 0.0)
        return RewardSums(loss=(self.rows(outputs, labels) * weights).sum(), size=weights.sum())
