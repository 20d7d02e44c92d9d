"""The frozen reward model as a term of the reward."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rlff_lightning.dialogue.reward_format import RewardFormat, read_reward_input
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.models.reward_head import RewardModel
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

    @torch.no_grad()
    def score(self, samples: Sequence[Sampled]) -> Tensor:
        # Equal replies to one context are scored once, and rows of like length go together.
        texts: dict[tuple[str, str], list[int]] = {}
        for sample in samples:
            key = (sample.context.id, sample.reply.text)
            if key not in texts:
                texts[key] = self._format.ids(sample.context, sample.reply)
        keys = sorted(texts, key=lambda key: len(texts[key]))
        scores: dict[tuple[str, str], float] = {}
        for start in range(0, len(keys), self.batch_size):
            chosen = keys[start : start + self.batch_size]
            values = self._score([texts[key] for key in chosen])
            scores.update(zip(chosen, values, strict=True))
        return torch.tensor([scores[sample.context.id, sample.reply.text] for sample in samples])

    def _score(self, rows: list[list[int]]) -> list[float]:
        tensors = [torch.tensor(row) for row in rows]
        input_ids = nn.utils.rnn.pad_sequence(tensors, batch_first=True).to(self._device)
        lengths = torch.tensor([len(row) for row in rows], device=self._device)[:, None]
        mask = torch.arange(input_ids.shape[1], device=self._device) < lengths
        values: list[float] = self._model.values(self._model(input_ids, mask)).tolist()
        return values
