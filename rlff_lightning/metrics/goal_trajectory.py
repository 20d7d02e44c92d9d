"""How the seeker fares from turn to turn, over all episodes."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from rlff_lightning.errors import UserError
from rlff_lightning.functional.goal import carry_forward


class Trajectory(NamedTuple):
    """Means by turn, ``(max_turns,)`` each; entry ``t - 1`` is turn ``t``."""

    values: Tensor
    """Critic value over the episodes that took the turn; 0 where none did."""
    carried: Tensor
    """Critic value over all episodes; one that has ended keeps its last value."""
    num_episodes: Tensor
    """Episodes that took the turn, int64."""


class EmotionTrajectory(Metric):
    """Mean critic value by turn; see ``functional.goal.carry_forward``.

    Args:
        max_turns: Most turns an episode may take.
        **kwargs: See ``torchmetrics.Metric``.
    """

    totals: Tensor
    carried: Tensor
    num_turns: Tensor
    num_episodes: Tensor

    def __init__(self, max_turns: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_turns = max_turns
        zeros = torch.zeros(max_turns, dtype=torch.float64)
        self.add_state("totals", zeros.clone(), dist_reduce_fx="sum")
        self.add_state("carried", zeros.clone(), dist_reduce_fx="sum")
        counts = torch.zeros(max_turns, dtype=torch.int64)
        self.add_state("num_turns", counts, dist_reduce_fx="sum")
        self.add_state("num_episodes", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, values: Tensor, value_mask: Tensor) -> None:
        """Add up values.

        Args:
            values: Of each turn, ``(B, T)``, in ``[-1, 1]``.
            value_mask: Turns that took place, ``(B, T)``.

        Raises:
            UserError: If an episode took more than ``max_turns``.
        """
        if values.shape[1] > self.max_turns:
            raise UserError(
                f"EmotionTrajectory.values must have at most max_turns={self.max_turns} columns, "
                f"got {values.shape[1]}"
            )
        rest = (0, self.max_turns - values.shape[1])
        values = torch.nn.functional.pad(values.double(), rest)
        value_mask = torch.nn.functional.pad(value_mask, rest)
        self.totals += torch.where(value_mask, values, 0.0).sum(0)
        self.carried += carry_forward(values, value_mask).sum(0)
        self.num_turns += value_mask.sum(0)
        self.num_episodes += len(values)

    def compute(self) -> Trajectory:
        """Average over episodes; 0 without any."""
        return Trajectory(
            self.totals / self.num_turns.clamp(min=1),
            self.carried / self.num_episodes.clamp(min=1),
            self.num_turns.clone(),
        )
