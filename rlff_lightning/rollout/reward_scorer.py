"""The frozen reward model as a term of the reward."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from rlff_lightning.dialogue.reward_format import RewardFormat, read_reward_input
from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.models.reward_head import RewardModel
from rlff_lightning.models.shared_base import SharedRewardModel
from rlff_lightning.rollout.experience import pad
from rlff_lightning.rollout.scorers import Learning, Sampled, Scorer

Row = tuple[list[int], list[int]]
"""Token ids of a context and of the reply to it."""


class RewardModelScorer(Scorer):
    """Score replies by a trained reward model.

    Args:
        folder: What the reward stage wrote.
        weight: Factor of the score.
        batch_size: Replies scored at once.
        share_base: Compute with the policy's own frozen base, where both are LoRA on the same
            one: the scores are the same, and the reward model costs its adapter and head alone.
    """

    name = "future"

    def __init__(
        self, folder: str, weight: float = 1.0, batch_size: int = 128, share_base: bool = False
    ) -> None:
        super().__init__(weight)
        if batch_size < 1:
            raise UserError(f"RewardModelScorer.batch_size must be at least 1, got {batch_size!r}")
        self.folder = Path(folder)
        self.batch_size = batch_size
        self.share_base = share_base
        self._alone: RewardModel | None = None
        self._shared: SharedRewardModel | None = None

    def start(self, device: torch.device) -> None:
        if not self.share_base:
            self._alone = RewardModel.load(self.folder).to(device)
        # The limits first: a folder without them is no reward model's.
        reads = read_reward_input(self.folder)
        self._format = RewardFormat(Backbone(str(self.folder)).tokenizer(), reads)

    def attach(self, learning: Learning) -> None:
        if self.share_base:
            self._shared = SharedRewardModel(self.folder, learning.model)

    def report(self) -> dict[str, float]:
        return {"rollout/shortened_inputs": float(self._format.num_shortened)}

    @torch.no_grad()
    def score(self, samples: Sequence[Sampled]) -> Tensor:
        rows = [self._format.parts(sample.context, sample.reply) for sample in samples]
        size = _siblings([before for before, _ in rows])
        with self._reward_model() as model:
            # One prompt per group where the model can share it; else every row on its own.
            can_share = model.settings.pooling == "last" and all(said for _, said in rows)
            share = size if can_share else 1
            step = max(self.batch_size // share, 1) * share
            parts = [
                _score(model, rows[start : start + step], share)
                for start in range(0, len(rows), step)
            ]
        return torch.cat(parts).cpu()

    def _reward_model(self) -> AbstractContextManager[RewardModel]:
        if self._shared is not None:
            return self._shared.active()
        if self._alone is None:
            raise UserError(
                "RewardModelScorer.share_base must be false where no policy is trained, got true"
            )
        return nullcontext(self._alone)


def _score(model: RewardModel, rows: Sequence[Row], share: int) -> Tensor:
    device = model.head.weight.device
    if share == 1:
        ids, mask = pad([[*before, *said] for before, said in rows])
        return model.values(model(ids.to(device), mask.to(device)))
    prompts, prompt_mask = pad([before for before, _ in rows[::share]], left=True)
    replies, reply_mask = pad([said for _, said in rows])
    inputs = [x.to(device) for x in (prompts, prompt_mask, replies, reply_mask)]
    return model.values(model.forward_groups(*inputs))


def _siblings(prompts: Sequence[list[int]]) -> int:
    """Length of the runs of equal prompts, if all runs are equally long; else 1."""
    lengths = {len(list(run)) for _, run in groupby(prompts)}
    return lengths.pop() if len(lengths) == 1 else 1
