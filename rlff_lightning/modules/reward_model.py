"""The reward model learns the future-oriented reward of a reply in its context."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from rlff_lightning.data.labelled import TEST, TRAIN, LabelledReplies, by_context
from rlff_lightning.dialogue.reward_format import (
    RewardFormat,
    RewardInput,
    read_reward_input,
    write_reward_input,
)
from rlff_lightning.errors import UserError
from rlff_lightning.functional.ensemble import member_draws
from rlff_lightning.functional.label_scale import LabelKind, LabelScale, fit_label_scale
from rlff_lightning.functional.reward_losses import Regression
from rlff_lightning.functional.reward_objective import RewardLoss
from rlff_lightning.functional.schedules import warmup_cosine
from rlff_lightning.metrics.reward import RewardQuality
from rlff_lightning.metrics.scored import ScoredRows
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.models.head_settings import HeadSettings
from rlff_lightning.models.reward_head import RewardModel
from rlff_lightning.models.sharding import put
from rlff_lightning.modules.baselines import tfidf_ridge, training_mean, turn_number
from rlff_lightning.modules.reward_batch import (
    RewardBatch,
    align,
    head_states,
    places_of,
    predict,
    reward_batch,
)
from rlff_lightning.modules.reward_report import report_quality
from rlff_lightning.modules.ridge_probe import RidgeProbe
from rlff_lightning.modules.schedules import by_step, check_optimizer
from rlff_lightning.modules.trained import TrainedModule
from rlff_lightning.modules.window import AccumulationWindow, divide_gradients
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import LabelledReply

_PROBED = 16  # contexts embedded at once while the head is solved


class RewardModule(TrainedModule):
    """Learn the future-oriented reward of a reply in its context.

    An update's loss is the mean over all replies of its accumulation window on all ranks: neither
    micro-batches nor ranks change it.

    Args:
        backbone: The model below the head, usually the warm-started policy's.
        reads: Limits of the input.
        head: From where the head reads; what it predicts follows from the loss.
        loss: What is minimised.
        labels: What a regression aims at: the labels' ``values``, or their ``ranks`` among the
            training labels, which no extreme label pulls; rewards stay in the labels' unit.
        probe: Solve the head by ridge regression before the first step; with a frozen backbone and
            ``max_epochs: 0`` that is all.
        learning_rate: Peak learning rate of AdamW.
        warmup_fraction: Share of the steps in which the rate rises; it then falls along a cosine.
        weight_decay: Of AdamW.
        freeze_backbone: Train the head alone.
        trained: Folder of a trained reward model for ``test``, which brings its own tokenizer,
            head and limits; by default what ``ckpt_path`` or ``fit`` gives.
    """

    def __init__(
        self,
        backbone: Backbone,
        reads: RewardInput | None = None,
        head: HeadSettings | None = None,
        loss: RewardLoss | None = None,
        labels: LabelKind = "values",
        probe: RidgeProbe | None = None,
        learning_rate: float = 1e-5,
        warmup_fraction: float = 0.1,
        weight_decay: float = 0.01,
        freeze_backbone: bool = False,
        trained: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.reads = reads or RewardInput()
        self.loss = loss or Regression()
        self.head_settings = _head_for(self.loss, head or HeadSettings())
        self.labels: LabelKind = labels
        self.probe = probe
        if self.loss.target != "regression" and (probe is not None or labels != "values"):
            raise UserError(
                "RewardModule.probe must be null and labels 'values' for a loss that classifies, "
                f"as {type(self.loss).__name__}, got {probe!r} and {labels!r}"
            )
        self.learning_rate = learning_rate
        self.warmup_fraction = warmup_fraction
        self.weight_decay = weight_decay
        check_optimizer(self)
        self.freeze_backbone = freeze_backbone
        self.trained = trained
        self.model: RewardModel | None = None
        self.quality = RewardQuality()
        self.scored = ScoredRows()
        self._window = AccumulationWindow()
        self._scale: LabelScale | None = None
        self._places: dict[tuple[str, str], int] = {}

    @override
    def setup(self, stage: str) -> None:
        if self.trained:
            if stage == "fit":
                raise UserError("RewardModule.trained must be null in fit: it is for test")
            self.reads = read_reward_input(Path(self.trained))
        backbone = Backbone(self.trained) if self.trained else self.backbone
        self.tokenizer = backbone.tokenizer()
        self.format = RewardFormat(self.tokenizer, self.reads)

    @override
    def configure_model(self) -> None:
        if self.model is not None:
            return
        self.model = self._build()
        if self.sharding is not None:
            self.model.spread(self.sharding)

    def _build(self) -> RewardModel:
        if self.trained:
            return RewardModel.load(Path(self.trained))
        model = RewardModel(self.backbone.build_trunk(), self.head_settings)
        if self.freeze_backbone:
            model.freeze_trunk()
        return model

    @override
    def rank_state(self) -> dict[str, Any]:
        return super().rank_state() | {"shortened": self.format.num_shortened}

    @override
    def load_rank_state(self, state: dict[str, Any]) -> None:
        super().load_rank_state(state)
        self.format.num_shortened = state["shortened"]

    @override
    def on_fit_start(self) -> None:
        train = self._data.part(TRAIN)
        if self.loss.needs_siblings and len(by_context(train)) == len(train):
            raise UserError(
                f"{type(self.loss).__name__} ranks replies to one context, but every training "
                "context has a single reply; use a loss that takes each by itself"
            )
        labels = torch.tensor([record.value for record in train])
        self._scale = fit_label_scale(labels, self.labels)
        self._scorer.label_mean, self._scorer.label_std = self._scale.mean, self._scale.unit
        # A run that goes on has its head from the checkpoint.
        if self.probe is not None and not self.trainer.ckpt_path:
            self._solve_head(self.probe, train)

    @torch.no_grad()
    def _solve_head(self, probe: RidgeProbe, train: list[LabelledReply]) -> None:
        model = self._scorer
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        states: list[Tensor] = []
        rows: list[LabelledReply] = []
        # Contexts of like length together: padding costs as much as words.
        groups = sorted(by_context(train), key=_length)
        for start in range(0, len(groups), _PROBED):
            part = groups[start : start + _PROBED]
            batch = self.on_before_batch_transfer(part, 0)
            batch = self.trainer.strategy.batch_to_device(batch, self.device)
            states.append(head_states(model, batch).cpu())
            rows += [record for group in part for record in group]
        for module, was_training in modes:
            module.training = was_training
        read = torch.cat(states)
        assert self._scale is not None
        targets = self._scale.targets(torch.tensor([record.value for record in rows]))
        dialogues = torch.tensor([derive_seed(record.context.source) for record in rows])
        contexts = torch.tensor([derive_seed(record.context.id) for record in rows])
        for member, is_drawn in enumerate(_draws(model, contexts)):
            kept = slice(None) if is_drawn is None else is_drawn
            solved = probe.solve(read[kept], targets[kept], dialogues[kept])
            put(model.head, "weight", member, solved.weight)
            put(model.head, "bias", member, solved.bias)

    @override
    def on_before_batch_transfer(
        self, batch: Sequence[list[LabelledReply]], dataloader_idx: int
    ) -> RewardBatch:
        return reward_batch(
            batch, self.format, self._scorer, scale=self._scale, places=self._places
        )

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
        outputs = predict(self._scorer, batch)
        members = outputs.unbind(1) if outputs.dim() == 3 else [outputs]
        draws = _draws(self._scorer, batch.labels.context_ids)
        parts = [
            self.loss.sums(own, batch.labels, is_drawn)
            for own, is_drawn in zip(members, draws, strict=True)
        ]
        loss, size = (torch.stack(part).sum() for part in zip(*parts, strict=True))
        errors = (self._scorer.values(outputs.detach()) - batch.labels.values) ** 2
        rows = errors.new_tensor(float(len(errors)))
        return self._window.add(self.trainer, loss, size, errors.sum(), rows)

    @override
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        loss, size, squared, rows = self._window.close(self.trainer)
        # An ensemble may have drawn none of the window's replies.
        size = torch.where(size > 0, size, 1.0)
        divide_gradients(self.parameters(), size)
        self.log("train/loss", loss / size)
        # In units of the labels' spread, as the loss of a regression is.
        mse = squared / rows / self._scorer.label_std**2
        self.log("train/mse", mse, prog_bar=True)

    @override
    def on_train_epoch_end(self) -> None:
        self.log("train/shortened_inputs", float(self.format.num_shortened))

    @override
    def validation_step(self, batch: RewardBatch, batch_idx: int) -> None:
        scores = self._scorer.values(predict(self._scorer, batch))
        labels = batch.labels
        self.quality.update(scores, labels.values, labels.standard_errors, labels.context_ids)

    @override
    def on_validation_epoch_end(self) -> None:
        figures = self.quality.compute()
        self.quality.reset()
        self.log_dict({f"val/{name}": value for name, value in figures.items()})

    @override
    def on_test_start(self) -> None:
        # A checkpoint saved while fit went on does not call itself trained, but may be tested.
        if not self._scorer.is_trained and not self.trainer.ckpt_path:
            raise UserError(
                "RewardModule: a reward model whose head was never trained cannot be tested; "
                "give its folder as `trained`, or a checkpoint as `--ckpt_path`"
            )
        self._places = places_of(self._data.part(TEST))

    @override
    def test_step(self, batch: RewardBatch, batch_idx: int) -> None:
        self.scored.update(batch.places, self._scorer.values(predict(self._scorer, batch)))

    @override
    def on_test_epoch_end(self) -> None:
        train = self._data.part(TRAIN)
        held_out, own = align(self._data.part(TEST), self._places, self.scored.compute())
        self.scored.reset()
        scores = {"reward_model": own}
        for baseline in (tfidf_ridge, turn_number, training_mean):
            scores[baseline.__name__] = baseline(train, held_out)
        folder = Path(self.trainer.default_root_dir) if self.trainer.is_global_zero else None
        figures = report_quality(scores, train, held_out, folder)
        figures["shortened_inputs"] = float(self.format.num_shortened)
        self.log_dict({f"test/{name}": value for name, value in figures.items()})

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
    def on_fit_end(self) -> None:
        if not all(_is_finite(weight) for weight in self._scorer.parameters()):
            raise UserError(
                "RewardModule: training diverged, weights are not finite; nothing was saved. A "
                "lower learning_rate helps, or gradient_clip_val"
            )
        # Also where no step is taken, because the solved head is all that is wanted.
        if self.trainer.global_step > 0 or self.probe is not None:
            self._scorer.mark_trained()
        is_trial = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if not is_trial:
            folder = Path(self.trainer.default_root_dir) / "model"
            is_writer = self.trainer.is_global_zero
            self._scorer.save_pretrained(folder, self.tokenizer, is_writer=is_writer)
            if is_writer:
                write_reward_input(self.reads, folder)


def _is_finite(weight: Tensor) -> bool:
    """Look at a weight, or at this rank's part of a sharded one."""
    own = weight.to_local() if hasattr(weight, "to_local") else weight
    return bool(own.isfinite().all())


def _length(group: list[LabelledReply]) -> tuple[int, int]:
    return len(group), sum(len(message.text) for message in group[0].context.messages)


def _draws(model: RewardModel, context_ids: Tensor) -> Sequence[Tensor | None]:
    """Say which replies each head learns from, ``(B,)``; a single one learns from all."""
    if model.settings.members == 1:
        return [None]
    return member_draws(context_ids, model.settings.members).unbind(1)


def _head_for(loss: RewardLoss, given: HeadSettings) -> HeadSettings:
    """Let the head predict what the loss needs; one that says otherwise is a mistake."""
    if given.kind not in ("regression", loss.target):
        raise UserError(
            f"RewardModule.head.kind must be {loss.target!r} for {type(loss).__name__}, got "
            f"{given.kind!r}; leave it out, it follows from the loss"
        )
    return replace(given, kind=loss.target, class_values=tuple(loss.class_values))
