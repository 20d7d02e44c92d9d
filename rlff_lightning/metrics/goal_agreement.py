"""Do two judges say the same of the same conversations?"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from rlff_lightning.functional.agreement import cohen_kappa
from rlff_lightning.functional.intervals import paired_difference_interval
from rlff_lightning.metrics.goal import OUTCOMES
from rlff_lightning.types import Verdict


class Agreement(NamedTuple):
    """How two judges compare; scalars."""

    kappa_success: float
    """Cohen's kappa of the episodes' success; NaN if both judges always say the same."""
    kappa_outcome: float
    """Cohen's kappa of the outcomes of all turns that both judged."""
    same_success: float
    """Share of episodes on whose success they agree."""
    same_outcome: float
    """Share of turns on whose outcome they agree."""
    difference: float
    """Success rate under the first judge less that under the second."""
    difference_low: float
    """Lower end of its 95 % interval, paired by episode."""
    difference_high: float
    """Upper end."""
    episodes: int
    """Episodes that both judged."""


class JudgeAgreement(Metric):
    """Confusion counts of two judges over episodes and over turns.

    Args:
        **kwargs: See ``torchmetrics.Metric``.
    """

    successes: Tensor
    outcomes: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        zeros = torch.zeros(2, 2, dtype=torch.int64)
        self.add_state("successes", zeros, dist_reduce_fx="sum")
        size = len(OUTCOMES)
        zeros = torch.zeros(size, size, dtype=torch.int64)
        self.add_state("outcomes", zeros, dist_reduce_fx="sum")

    def update(self, first: Sequence[Verdict], second: Sequence[Verdict]) -> None:
        """Count one episode.

        Args:
            first: The first judge's verdict on every turn that was played.
            second: The second's, on the same turns.
        """
        self.successes[int(_is_solved(first)), int(_is_solved(second))] += 1
        for one, other in zip(first, second, strict=True):
            if not (one.failure or other.failure):
                self.outcomes[OUTCOMES.index(one.outcome), OUTCOMES.index(other.outcome)] += 1

    def compute(self) -> Agreement:
        """Compare the judges; shares are 0 without episodes."""
        (_, only_second), (only_first, _) = self.successes.tolist()
        episodes, turns = int(self.successes.sum()), int(self.outcomes.sum())
        low, high = paired_difference_interval(only_first, only_second, episodes)
        return Agreement(
            kappa_success=float(cohen_kappa(self.successes)),
            kappa_outcome=float(cohen_kappa(self.outcomes)),
            same_success=float(self.successes.diagonal().sum()) / max(episodes, 1),
            same_outcome=float(self.outcomes.diagonal().sum()) / max(turns, 1),
            difference=(only_first - only_second) / max(episodes, 1),
            difference_low=low,
            difference_high=high,
            episodes=episodes,
        )


def _is_solved(course: Sequence[Verdict]) -> bool:
    """Under a judge that gives up the episode ends there, whatever it says later."""
    ends = (verdict.is_success for verdict in course if verdict.is_success or verdict.failure)
    return next(ends, False)
