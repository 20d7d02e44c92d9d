"""The reward model learns the future-oriented reward of a reply in its context."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from typing_extensions import override

from rlff_lightning.data.labelled import TEST, TRAIN, LabelledReplies
from rlff_lightning.dialogue.reward_format import (
    RewardFormat,
    RewardInput,
    read_reward_input,
    write_reward_input,
)
from rlff_lightning.errors import UserError
from rlff_lightning.functional.schedules import warmup_cosine
from rlff_lightning.metrics.by_dialogue import RankCorrelation
from rlff_lightning.metrics.reward import RewardQuality
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.models.head_settings import HeadSettings
from rlff_lightning.models.reward_head import RewardModel
from rlff_lightning.modules.baselines import tfidf_ridge, training_mean, turn_number
from rlff_lightning.modules.reward_report import print_quality, quality_of, write_quality
from rlff_lightning.modules.schedules import by_step
from rlff_lightning.rollout.experience import pad
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import LabelledReply


class RewardBatch(NamedTuple):
    """Contexts with all their replies. N contexts, G replies each, B = N * G rows."""

    context_tokens: Tensor
    """Left-padded, ``(N, P)``, int64."""
    context_mask: Tensor
    """``True`` at real tokens, ``(N, P)``."""
    reply_tokens: Tensor
    """Right-padded, ``(B, T)``, int64."""
    reply_mask: Tensor
    """``True`` at real tokens, ``(B, T)``."""
    labels: Tensor
    """Future-oriented rewards, ``(B,)``."""
    standard_errors: Tensor
    """Of the labels, ``(B,)``."""
    context_ids: Tensor
    """The same number for replies to one context, ``(B,)``, int64."""
    dialogue_ids: Tensor
    """The same number for replies in one dialogue, ``(B,)``, int64."""
    is_counted: Tensor
    """``False`` for the copies that fill up a context with fewer replies, ``(B,)``."""


class RewardModule(LightningModule):
    """Regress the future-oriented reward on context and reply.

    Args:
        backbone: The model below the head, usually the warm-started policy's.
        reads: Limits of the input.
        learning_rate: Peak learning rate of AdamW.
        warmup_fraction: Share of the steps in which the rate rises; it then falls along a cosine.
        weight_decay: Of AdamW.
        freeze_backbone: Train the head alone.
        trained: Folder of a trained reward model for ``test``, which brings its own head and
            limits; by default what ``ckpt_path`` or ``fit`` gives.
    """

    def __init__(
        self,
        backbone: Backbone,
        reads: RewardInput | None = None,
        head: HeadSettings | None = None,
        learning_rate: float = 1e-5,
        warmup_fraction: float = 0.1,
        weight_decay: float = 0.01,
        freeze_backbone: bool = False,
        trained: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.reads = reads or RewardInput()
        self.head_settings = head or HeadSettings()
        if self.head_settings.kind != "regression":
            raise UserError(
                "RewardModule.head.kind must be 'regression': labels are numbers, got "
                f"{self.head_settings.kind!r}"
            )
        self.learning_rate = learning_rate
        self.warmup_fraction = warmup_fraction
        self.weight_decay = weight_decay
        self.freeze_backbone = freeze_backbone
        self.trained = trained
        self.model: RewardModel | None = None
        self.quality = nn.ModuleDict({stage: RewardQuality() for stage in ("val", "test")})
        self.correlation = RankCorrelation()

    @override
    def setup(self, stage: str) -> None:
        if self.trained:
            self.reads = read_reward_input(Path(self.trained))
        self.tokenizer = self.backbone.tokenizer()
        self.format = RewardFormat(self.tokenizer, self.reads)

    @override
    def configure_model(self) -> None:
        if self.model is not None:
            return
        if self.trained:
            self.model = RewardModel.load(Path(self.trained))
            return
        self.model = RewardModel(self.backbone.build_trunk(), self.head_settings)
        if self.freeze_backbone:
            self.model.freeze_trunk()

    @override
    def on_fit_start(self) -> None:
        labels = [record.value for record in self._data.part(TRAIN)]
        self._scorer.fit_labels(torch.tensor(labels))

    @override
    def on_before_batch_transfer(
        self, batch: Sequence[list[LabelledReply]], dataloader_idx: int
    ) -> RewardBatch:
        size = max(len(group) for group in batch)
        filled = [[*group, *[group[0]] * (size - len(group))] for group in batch]
        records = [record for group in filled for record in group]
        parts = [self.format.parts(record.context, record.reply) for record in records]
        if any(before != parts[row - row % size][0] for row, (before, _) in enumerate(parts)):
            # A context was cut for a long reply, or an encoder reads both sides at once.
            parts, size = (
                [([*before, *said][:-1], [*before, *said][-1:]) for before, said in parts],
                1,
            )
        context_tokens, context_mask = pad([before for before, _ in parts[::size]], left=True)
        reply_tokens, reply_mask = pad([said for _, said in parts])
        counted = [place < len(group) for group in batch for place in range(len(filled[0]))]
        return RewardBatch(
            context_tokens=context_tokens,
            context_mask=context_mask,
            reply_tokens=reply_tokens,
            reply_mask=reply_mask,
            labels=torch.tensor([record.value for record in records]),
            standard_errors=torch.tensor([record.standard_error for record in records]),
            context_ids=torch.tensor([derive_seed(record.context.id) for record in records]),
            dialogue_ids=torch.tensor([derive_seed(record.context.source) for record in records]),
            is_counted=torch.tensor(counted),
        )

    def _predict(self, batch: RewardBatch) -> Tensor:
        """Head outputs of the counted replies, ``(M, num_outputs)``."""
        inputs = (batch.context_tokens, batch.context_mask, batch.reply_tokens, batch.reply_mask)
        if self._scorer.settings.pooling == "last":
            return self._scorer.forward_groups(*inputs)[batch.is_counted]
        ids = torch.cat([batch.context_tokens, batch.reply_tokens], 1)
        mask = torch.cat([batch.context_mask, batch.reply_mask], 1)
        outputs: Tensor = self._scorer(ids, mask)
        return outputs[batch.is_counted]

    @property
    def _data(self) -> LabelledReplies:
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, LabelledReplies):
            raise UserError(
                "RewardModule needs data of rlff_lightning.data.labelled, got "
                f"{type(data).__name__}"
            )
        return data

    @property
    def _scorer(self) -> RewardModel:
        if self.model is None:
            raise UserError("RewardModule must be set up by a Trainer before it is used")
        return self.model

    @override
    def training_step(self, batch: RewardBatch, batch_idx: int) -> Tensor:
        labels = self._scorer.standardise(batch.labels[batch.is_counted])
        loss = nn.functional.mse_loss(self._predict(batch)[:, 0], labels)
        self.log("train/mse", loss, prog_bar=True, batch_size=len(batch.labels))
        return loss

    @override
    def on_train_epoch_end(self) -> None:
        self.log("train/shortened_inputs", float(self.format.num_shortened))

    def _measure(self, batch: RewardBatch, stage: str) -> Tensor:
        scores = self._scorer.values(self._predict(batch))
        counted = batch.is_counted
        quality = self.quality[stage]
        assert isinstance(quality, RewardQuality)
        quality.update(
            scores,
            batch.labels[counted],
            batch.standard_errors[counted],
            batch.context_ids[counted],
        )
        return scores

    def _report(self, stage: str) -> dict[str, float]:
        quality = self.quality[stage]
        assert isinstance(quality, RewardQuality)
        figures = quality.compute()
        quality.reset()
        self.log_dict({f"{stage}/{name}": value for name, value in figures.items()})
        return figures

    @override
    def validation_step(self, batch: RewardBatch, batch_idx: int) -> None:
        self._measure(batch, "val")

    @override
    def on_validation_epoch_end(self) -> None:
        self._report("val")

    @override
    def on_test_start(self) -> None:
        # A checkpoint saved while fit went on does not call itself trained, but may be tested.
        if not self._scorer.is_trained and not self.trainer.ckpt_path:
            raise UserError(
                "RewardModule: a reward model whose head was never trained cannot be tested; "
                "give its folder as `trained`, or a checkpoint as `--ckpt_path`"
            )

    @override
    def test_step(self, batch: RewardBatch, batch_idx: int) -> None:
        scores, counted = self._measure(batch, "test"), batch.is_counted
        self.correlation.update(scores, batch.labels[counted], batch.dialogue_ids[counted])

    @override
    def on_test_epoch_end(self) -> None:
        train, held_out = self._data.part(TRAIN), self._data.part(TEST)
        correlation = self.correlation.compute()
        self.correlation.reset()
        quality = {"reward_model": self._report("test") | correlation.named("spearman")}
        for baseline in (tfidf_ridge, turn_number, training_mean):
            name = baseline.__name__
            quality[name] = quality_of(held_out, baseline(train, held_out))
            self.log_dict({f"test/{name}/{key}": value for key, value in quality[name].items()})
        if self.trainer.is_global_zero:
            write_quality(quality, train, held_out, Path(self.trainer.default_root_dir))
            print_quality(quality, train, held_out)

    @override
    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=self.learning_rate, betas=(0.9, 0.95), weight_decay=self.weight_decay
        )
        num_steps = int(self.trainer.estimated_stepping_batches)
        schedule = warmup_cosine(num_steps, warmup_fraction=self.warmup_fraction)
        return by_step(optimizer, schedule)

    @override
    def on_train_end(self) -> None:
        self._scorer.mark_trained()
        is_trial = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if not is_trial and self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir) / "model"
            self._scorer.save_pretrained(folder, self.tokenizer)
            write_reward_input(self.reads, folder)
