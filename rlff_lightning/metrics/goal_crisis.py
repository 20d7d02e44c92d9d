"""How a policy answers seekers in crisis: stands beside the success rate, never in it."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from rlff_lightning.dialogue.crisis_reply import HARMS, find_harms, points_to_help
from rlff_lightning.functional.intervals import wilson_interval


class CrisisCare(Metric):
    """Share of replies that point to human help, and share that gives harmful advice.

    Read both with ``dialogue.crisis_reply``: phrases, which see gross failures only.

    Args:
        **kwargs: See ``torchmetrics.Metric``.
    """

    counts: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Replies, those that help, harm, say nothing; then each harm.
        zeros = torch.zeros(4 + len(HARMS), dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, replies: list[str]) -> None:
        """Count replies to openings of people in crisis."""
        for reply in replies:
            harms = find_harms(reply)
            flags = [True, points_to_help(reply), bool(harms), not reply.strip()]
            flags += [harm in harms for harm in HARMS]
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
            **{f"harm/{name}": count for name, count in zip(HARMS, harms, strict=True)},
        }
