"""Goal completion over episodes, right under DDP: every state is a sum.

Each figure is a property of the critic's rule as much as of the policy: name the rule beside it.
"""

import math
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from rlff_lightning.errors import UserError
from rlff_lightning.functional.goal import successes_at_turn, turns_to_goal
from rlff_lightning.functional.intervals import counts_mean_interval, wilson_interval
from rlff_lightning.functional.masked import masked_sum
from rlff_lightning.types import Outcome

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
"""The order of ``OutcomeShares``' entries."""


class Estimate(NamedTuple):
    """A figure with its confidence interval; scalars."""

    value: Tensor
    """What was measured."""
    low: Tensor
    """Lower end of the interval."""
    high: Tensor
    """Upper end of the interval."""
    trials: Tensor
    """What it was measured on: number of episodes, int64."""


class SuccessRate(Metric):
    """Share of episodes that reached the goal, with its Wilson interval; see ``functional.goal``.

    Args:
        confidence: Probability that the interval covers the truth.
        **kwargs: See ``torchmetrics.Metric``.
    """

    higher_is_better = True
    num_successes: Tensor
    num_episodes: Tensor

    def __init__(self, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.confidence = confidence
        self.add_state("num_successes", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("num_episodes", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, is_success: Tensor) -> None:
        """Count episodes.

        Args:
            is_success: Bool per episode, ``(B,)``.
        """
        self.num_successes += is_success.sum()
        self.num_episodes += is_success.numel()

    def compute(self) -> Estimate:
        """Estimate the rate; 0 in ``[0, 1]`` without episodes."""
        successes, episodes = int(self.num_successes), int(self.num_episodes)
        low, high = wilson_interval(successes, episodes, self.confidence)
        share = successes / max(episodes, 1)
        value, lower, upper = torch.tensor([share, low, high], device=self.device).unbind()
        return Estimate(value, lower, upper, trials=self.num_episodes.clone())


class AverageTurns(Metric):
    """Mean number of supporter turns to the goal, where a failure counts as the cap.

    Its interval is Student's t over episodes, which bounds nothing where all take as many turns:
    both ends are NaN there.

    Args:
        max_turns: Most turns an episode may take.
        confidence: Probability that the interval covers the truth.
        **kwargs: See ``torchmetrics.Metric``.
    """

    higher_is_better = False
    num_turns: Tensor
    num_squared_turns: Tensor
    num_episodes: Tensor

    def __init__(self, max_turns: int, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_turns = max_turns
        self.confidence = confidence
        self.add_state("num_turns", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("num_squared_turns", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("num_episodes", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, is_success: Tensor, num_turns: Tensor) -> None:
        """Count turns.

        Args:
            is_success: Bool per episode, ``(B,)``.
            num_turns: Supporter turns of each, ``(B,)``, int.
        """
        turns = turns_to_goal(is_success, num_turns, max_turns=self.max_turns)
        self.num_turns += turns.sum()
        self.num_squared_turns += (turns**2).sum()
        self.num_episodes += is_success.numel()

    def compute(self) -> Estimate:
        """Average over episodes; 0 in ``[1, max_turns]`` without any."""
        total, squares = int(self.num_turns), int(self.num_squared_turns)
        episodes = int(self.num_episodes)
        low, high = counts_mean_interval(total, squares, episodes, self.confidence)
        # No episode takes less than a turn or more than the cap.
        ends = [max(low, 1.0), min(high, float(self.max_turns))] if low < high else [math.nan] * 2
        value, lower, upper = torch.tensor(
            [total / max(episodes, 1), *ends], device=self.device
        ).unbind()
        return Estimate(value, lower, upper, trials=self.num_episodes.clone())


class SuccessRateAtTurn(Metric):
    """Share of episodes that reached the goal within 1, 2, ... turns.

    Args:
        max_turns: Most turns an episode may take.
        **kwargs: See ``torchmetrics.Metric``.
    """

    higher_is_better = True
    num_successes: Tensor
    num_episodes: Tensor

    def __init__(self, max_turns: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_turns = max_turns
        zeros = torch.zeros(max_turns, dtype=torch.int64)
        self.add_state("num_successes", zeros, dist_reduce_fx="sum")
        self.add_state("num_episodes", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, is_success: Tensor, num_turns: Tensor) -> None:
        """Count successes by turn.

        Args:
            is_success: Bool per episode, ``(B,)``.
            num_turns: Supporter turns of each, ``(B,)``, int.
        """
        self.num_successes += successes_at_turn(is_success, num_turns, max_turns=self.max_turns)
        self.num_episodes += is_success.numel()

    def compute(self) -> Tensor:
        """Give the curve, ``(max_turns,)``; 0 without episodes."""
        return self.num_successes / self.num_episodes.clamp(min=1)


class MeanCriticValue(Metric):
    """Mean of the critic's values over all judged turns of all episodes.

    Args:
        **kwargs: See ``torchmetrics.Metric``.
    """

    higher_is_better = True
    total: Tensor
    num_turns: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # In float32 the order of ranks would show.
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_turns", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, values: Tensor, value_mask: Tensor) -> None:
        """Add up values.

        Args:
            values: Of each turn, ``(B, T)``, in ``[-1, 1]``.
            value_mask: Turns that took place, ``(B, T)``.
        """
        self.total += masked_sum(values.double(), value_mask)
        self.num_turns += value_mask.sum()

    def compute(self) -> Tensor:
        """Average over turns; 0 without any."""
        return self.total / self.num_turns.clamp(min=1)


class OutcomeShares(Metric):
    """Share of each outcome among all the critic's answers, in the order of ``OUTCOMES``.

    Args:
        **kwargs: See ``torchmetrics.Metric``.
    """

    counts: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        zeros = torch.zeros(len(OUTCOMES), dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, outcomes: Tensor) -> None:
        """Count answers.

        Args:
            outcomes: Index into ``OUTCOMES`` of each answer, any shape, int.
        """
        if outcomes.numel() and not 0 <= int(outcomes.min()) <= int(outcomes.max()) < len(OUTCOMES):
            raise UserError(
                f"OutcomeShares.outcomes must be in [0, {len(OUTCOMES)}), got {outcomes.tolist()}"
            )
        self.counts += torch.bincount(outcomes.flatten(), minlength=len(OUTCOMES))

    def compute(self) -> Tensor:
        """Give the shares, ``(5,)``; they sum to 1, or are 0 without answers."""
        return self.counts / self.counts.sum().clamp(min=1)
