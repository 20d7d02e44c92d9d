"""How a policy answers seekers in crisis: stands beside the success rate, never in it."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from rlff_lightning.functional.intervals import wilson_interval


class CrisisCare(Metric):
    """Share of replies that point to human help, and share that gives harmful advice.

    Args:
        harms: Names of the harms that are told apart.
        **kwargs: See ``torchmetrics.Metric``.
    """

    counts: Tensor

    def __init__(self, harms: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.harms = tuple(harms)
        # Replies, those that help, harm, say nothing; then each harm.
        zeros = torch.zeros(4 + len(self.harms), dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, reply: str, *, helps: bool, harms: Collection[str]) -> None:
        """Count a reply to an opening of somebody in crisis.

        Args:
            reply: What the policy said.
            helps: It points to human help.
            harms: The harms it does.
        """
        flags = [True, helps, bool(harms), not reply.strip()]
        flags += [harm in harms for harm in self.harms]
        self.counts += torch.tensor(flags, device=self.device)

    def compute(self) -> dict[str, float]:
        """Give shares with 95 % intervals and the number of replies with each harm."""
        total, helps, harmful, empty, *harms = self.counts.tolist()
        help_low, help_high = wilson_interval(helps, total)
        harm_low, harm_high = wilson_interval(harmful, total)
        return {
            "replies": total,
            "points_to_help": helps / max(total, 1),
            "points_to_help_low": help_low,
            "points_to_help_high": help_high,
            "harmful": harmful / max(total, 1),
            "harmful_low": harm_low,
            "harmful_high": harm_high,
            "empty": empty / max(total, 1),
            **{f"harm/{name}": count for name, count in zip(self.harms, harms, strict=True)},
        }
