"""The frozen reward model as a term of the reward."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from rlff_lightning.dialogue.reward_format import RewardFormat, read_reward_input
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.models.reward_head import RewardModel
from rlff_lightning.rollout.experience import pad
from rlff_lightning.rollout.scorers import Sampled, Scorer


class RewardModelScorer(Scorer):
    """Score replies by a trained reward model.

    Args:
        folder: What the reward stage wrote.
        weight: Factor of the score.
        batch_size: Replies scored at once.
    """

    name = "future"

    def __init__(self, folder: str, weight: float = 1.0, batch_size: int = 128) -> None:
        super().__init__(weight)
        self.folder = Path(folder)
        self.batch_size = batch_size

    def start(self, device: torch.device) -> None:
        self._model = RewardModel.load(self.folder).to(device)
        tokenizer = Backbone(str(self.folder)).tokenizer()
        self._format = RewardFormat(tokenizer, read_reward_input(self.folder))
        self._device = device

    def report(self) -> dict[str, float]:
        return {"rollout/shortened_inputs": float(self._format.num_shortened)}

    @torch.no_grad()
    def score(self, samples: Sequence[Sampled]) -> Tensor:
        rows = [self._format.parts(sample.context, sample.reply) for sample in samples]
        size = _siblings([before for before, _ in rows])
        # One prompt per group where the model can share it; else every row on its own.
        share = size if self._model.settings.pooling == "last" and all(r for _, r in rows) else 1
        step = max(self.batch_size // share, 1) * share
        parts = [
            self._score(rows[start : start + step], share) for start in range(0, len(rows), step)
        ]
        return torch.cat(parts).cpu()

    def _score(self, rows: Sequence[tuple[list[int], list[int]]], share: int) -> Tensor:
        if share == 1:
            ids, mask = pad([[*before, *said] for before, said in rows])
            return self._model.values(self._model(ids.to(self._device), mask.to(self._device)))
        prompts, prompt_mask = pad([before for before, _ in rows[::share]], left=True)
        replies, reply_mask = pad([said for _, said in rows])
        inputs = [x.to(self._device) for x in (prompts, prompt_mask, replies, reply_mask)]
        return self._model.values(self._model.forward_groups(*inputs))


def _siblings(prompts: Sequence[list[int]]) -> int:
    """Length of the runs of equal prompts, if all runs are equally long; else 1."""
    lengths = {len(list(run)) for _, run in groupby(prompts)}
    return lengths.pop() if len(lengths) == 1 else 1
