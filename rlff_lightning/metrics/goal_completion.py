"""All figures of goal completion from episodes, as one flat dictionary."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchmetrics import SumMetric

from rlff_lightning.metrics.goal import (
    OUTCOMES,
    AverageTurns,
    MeanCriticValue,
    OutcomeShares,
    SuccessRate,
    SuccessRateAtTurn,
)
from rlff_lightning.metrics.goal_trajectory import EmotionTrajectory
from rlff_lightning.types import Episode


class GoalCompletion(nn.Module):
    """Success rate and average turns with intervals, values by turn, SR@t and outcome shares.

    An episode that was broken off (see ``Episode.failure``) is no success, and counted.

    Args:
        max_turns: Most turns an episode may take.
        confidence: Probability that each of the two intervals covers the truth.
    """

    def __init__(self, max_turns: int, confidence: float = 0.95) -> None:
        super().__init__()
        self.success_rate = SuccessRate(confidence)
        self.average_turns = AverageTurns(max_turns, confidence)
        self.success_rate_at_turn = SuccessRateAtTurn(max_turns)
        self.mean_critic_value = MeanCriticValue()
        self.outcome_shares = OutcomeShares()
        self.trajectory = EmotionTrajectory(max_turns)
        self.broken_off = SumMetric()

    def update(
        self,
        is_success: Tensor,
        num_turns: Tensor,
        values: Tensor,
        value_mask: Tensor,
        outcomes: Tensor,
    ) -> None:
        """Take in episodes.

        Args:
            is_success: Bool per episode, ``(B,)``.
            num_turns: Supporter turns of each, ``(B,)``, int.
            values: The critic's value of each turn, ``(B, T)``, in ``[-1, 1]``.
            value_mask: Turns that took place, ``(B, T)``.
            outcomes: Index into ``OUTCOMES`` of every answer of the critic, any shape.
        """
        device = self.success_rate.device
        is_success, num_turns = is_success.to(device), num_turns.to(device)
        self.success_rate.update(is_success)
        self.average_turns.update(is_success, num_turns)
        self.success_rate_at_turn.update(is_success, num_turns)
        self.mean_critic_value.update(values.to(device), value_mask.to(device))
        self.outcome_shares.update(outcomes.to(device))
        self.trajectory.update(values.to(device), value_mask.to(device))

    def update_episodes(self, episodes: Sequence[Episode]) -> None:
        """Take in self-played episodes; a verdict without answers counts by its outcome.

        A verdict that the critic failed to give has no value and no outcome.
        """
        if not episodes:
            return
        given = [[verdict for verdict in e.verdicts if not verdict.failure] for e in episodes]
        rows = [torch.tensor([verdict.value for verdict in verdicts]) for verdicts in given]
        num_judged = torch.tensor([len(row) for row in rows])
        values = pad_sequence(rows, batch_first=True)
        answers = [
            OUTCOMES.index(answer)
            for verdicts in given
            for verdict in verdicts
            for answer in verdict.answers or (verdict.outcome,)
        ]
        self.update(
            is_success=torch.tensor([episode.is_success for episode in episodes]),
            num_turns=torch.tensor([len(episode.verdicts) for episode in episodes]),
            values=values,
            value_mask=torch.arange(values.shape[1]) < num_judged[:, None],
            outcomes=torch.tensor(answers, dtype=torch.int64),
        )
        self.broken_off.update(float(sum(bool(episode.failure) for episode in episodes)))

    def compute(self) -> dict[str, float]:
        """Give every figure over all ranks.

        Returns:
            ``episodes``, ``success_rate``, ``success_rate_low``, ``success_rate_high``,
            ``average_turns``, ``average_turns_low``, ``average_turns_high``,
            ``mean_critic_value``, ``broken_off``; for every turn from 1 on
            ``success_rate_at/{turn}``, ``critic_value_at/{turn}`` over the
            ``episodes_at/{turn}`` that took it, and ``critic_value_carried_at/{turn}`` over all;
            ``outcome_share/{outcome}`` of the critic's answers, unparsed ones included.
        """
        rate, low, high, episodes = self.success_rate.compute()
        turns, fewest, most, _ = self.average_turns.compute()
        curve = self.success_rate_at_turn.compute().tolist()
        shares = self.outcome_shares.compute().tolist()
        trajectory = self.trajectory.compute()
        return {
            "episodes": float(episodes),
            "success_rate": float(rate),
            "success_rate_low": float(low),
            "success_rate_high": float(high),
            "average_turns": float(turns),
            "average_turns_low": float(fewest),
            "average_turns_high": float(most),
            "mean_critic_value": float(self.mean_critic_value.compute()),
            "broken_off": float(self.broken_off.compute()),
            **_by_turn("success_rate_at", curve),
            **_by_turn("critic_value_at", trajectory.values.tolist()),
            **_by_turn("critic_value_carried_at", trajectory.carried.tolist()),
            **_by_turn("episodes_at", trajectory.num_episodes.tolist()),
            **{
                f"outcome_share/{name}": share for name, share in zip(OUTCOMES, shares, strict=True)
            },
        }

    def reset(self) -> None:
        """Forget all episodes."""
        for metric in (
            self.success_rate,
            self.average_turns,
            self.success_rate_at_turn,
            self.mean_critic_value,
            self.outcome_shares,
            self.trajectory,
            self.broken_off,
        ):
            metric.reset()


def _by_turn(name: str, curve: Sequence[float]) -> dict[str, float]:
    return {f"{name}/{turn}": float(value) for turn, value in enumerate(curve, start=1)}
