"""The frozen reward model as a term of the reward."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from rlff_lightning.dialogue.reward_format import RewardFormat, read_reward_input
from rlff_lightning.errors import UserError
from rlff_lightning.functional.ensemble import Pessimism
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.models.reward_head import RewardModel, Texts
from rlff_lightning.models.shared_base import SharedRewardModel
from rlff_lightning.rollout.experience import pad
from rlff_lightning.rollout.scorers import Learning, Sampled, Scorer


class RewardModelScorer(Scorer):
    """Score replies by a trained reward model.

    Args:
        folder: What the reward stage wrote.
        weight: Factor of the score.
        batch_size: Replies scored at once.
        share_base: Compute with the policy's own frozen base, where both are LoRA on the same
            one: the scores are the same, and the reward model costs its adapter and head alone.
        pessimism: For an ensemble of heads, the score is the members' mean less so many of their
            standard deviations, or with ``min`` the least member's.
        name: Another name for the term, for a second reward model; ``null`` is ``future``.
    """

    name = "future"

    def __init__(
        self,
        folder: str,
        weight: float = 1.0,
        batch_size: int = 128,
        share_base: bool = False,
        pessimism: Pessimism = 0.0,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        if batch_size < 1:
            raise UserError(f"RewardModelScorer.batch_size must be at least 1, got {batch_size!r}")
        self.folder = Path(folder)
        self.batch_size = batch_size
        self.share_base = share_base
        if pessimism != "min" and not 0 <= pessimism < float("inf"):
            raise UserError(
                f"RewardModelScorer.pessimism must be at least 0, or min, got {pessimism!r}"
            )
        self.pessimism: Pessimism = pessimism
        self._alone: RewardModel | None = None
        self._shared: SharedRewardModel | None = None
        self._disagreement: dict[str, float] = {}

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
        found = {"rollout/shortened_inputs": float(self._format.num_shortened)}
        found |= self._disagreement
        if self.name == type(self).name:
            return found
        return {f"{key}/{self.name}": value for key, value in found.items()}

    @torch.no_grad()
    def score(self, samples: Sequence[Sampled]) -> Tensor:
        with self._reward_model() as model:
            self._check_members(model)
            outputs = reward_outputs(model, self._format, samples, self.batch_size)
            if model.settings.members > 1:
                spread = model.member_values(outputs).std(dim=1).mean().item()
                self._disagreement = {"rollout/reward_disagreement": spread}
            scores = model.values(outputs, pessimism=self.pessimism).cpu()
        if not scores.isfinite().all():
            raise UserError(f"{self.folder}: the reward model's scores are not finite")
        return scores

    def _check_members(self, model: RewardModel) -> None:
        if self.pessimism != 0 and model.settings.members == 1:
            raise UserError(
                f"RewardModelScorer.pessimism must be 0 for {self.folder}, which has one head, got "
                f"{self.pessimism!r}; train it with head.members of 2 or more"
            )

    def _reward_model(self) -> AbstractContextManager[RewardModel]:
        if self._shared is not None:
            return self._shared.active()
        if self._alone is None:
            raise UserError(
                "RewardModelScorer.share_base must be false where no policy is trained, got true"
            )
        return nullcontext(self._alone)


def reward_outputs(
    model: RewardModel, shown: RewardFormat, samples: Sequence[Sampled], batch_size: int
) -> Tensor:
    """Let a reward model's head read replies in their contexts.

    Args:
        model: In evaluation mode.
        shown: How they are written for it.
        samples: B replies; siblings that are adjacent share the reading of their context.
        batch_size: Replies read at once.

    Returns:
        What the head predicts of each, in order, ``(B, …)``.
    """
    parts = _apart if model.settings.reads == "apart" else _joined
    return torch.cat(list(parts(model, shown, samples, batch_size)))


def _apart(
    model: RewardModel, shown: RewardFormat, samples: Sequence[Sampled], batch_size: int
) -> Iterator[Tensor]:
    rows = [shown.apart(sample.context, sample.reply) for sample in samples]
    for start in range(0, len(rows), batch_size):
        sides = zip(*rows[start : start + batch_size], strict=True)
        yield model.forward_apart(*(_texts(model, side) for side in sides))


def _joined(
    model: RewardModel, shown: RewardFormat, samples: Sequence[Sampled], batch_size: int
) -> Iterator[Tensor]:
    rows = [shown.parts(sample.context, sample.reply) for sample in samples]
    # One prompt per group where the model can share it; else every row on its own.
    can_share = model.shares_prompts and all(said for _, said in rows)
    size = _siblings([before for before, _ in rows]) if can_share else 1
    step = max(batch_size // size, 1) * size
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        if size == 1:
            yield model(*_texts(model, [[*before, *said] for before, said in part]))
        else:
            prompts = _texts(model, [before for before, _ in part[::size]], left=True)
            yield model.forward_groups(*prompts, *_texts(model, [said for _, said in part]))


def _texts(model: RewardModel, rows: Sequence[Sequence[int]], *, left: bool = False) -> Texts:
    return Texts(*(side.to(model.head.weight.device) for side in pad(rows, left=left)))


def _siblings(prompts: Sequence[list[int]]) -> int:
    """Length of the runs of equal prompts, if all runs are equally long; else 1."""
    lengths = {len(list(run)) for _, run in groupby(prompts)}
    return lengths.pop() if len(lengths) == 1 else 1
