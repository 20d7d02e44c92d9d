"""A scorer as a service: a file of replies in, the rewards that training would give them out."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from rlff_lightning.data.scoring_rows import RowToScore
from rlff_lightning.rollout.scorers import Sampled, Scorer, check_reads_text

Rewards = dict[int, tuple[str, float]]
"""A row's id and its reward, by its place in the file."""


class ScoringModule(LightningModule):
    """Score replies in their contexts, row by row, as `predict`.

    Args:
        scorer: What a policy would be rewarded by; its weight is not applied.
    """

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        check_reads_text("ScoringModule", [scorer])
        self.scorer = scorer

    @override
    def setup(self, stage: str) -> None:
        self.scorer.start(self.trainer.strategy.root_device)

    @override
    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        # Records hold no tensors, and Lightning refuses to look into frozen ones.
        return batch

    @override
    def predict_step(self, batch: Sequence[RowToScore], batch_idx: int) -> Rewards:
        rewards = self.scorer.score(
            [
                Sampled(
                    context=row.context,
                    text=row.reply.text,
                    reply=row.reply,
                    token_ids=(),
                    is_finished=True,
                )
                for row in batch
            ]
        )
        return {
            row.number: (row.id, reward)
            for row, reward in zip(batch, rewards.tolist(), strict=True)
        }

    @override
    def on_predict_end(self) -> None:
        report = self.scorer.report().items()
        num_cut = int(sum(n for key, n in report if key.startswith("rollout/shortened_inputs")))
        if num_cut:
            rank_zero_warn(
                f"{num_cut} replies were read without the oldest messages of their context, which "
                "is over the reward model's limit"
            )
