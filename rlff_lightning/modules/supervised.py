"""Supervised warm start: the policy learns to reason and reply as the dialogues do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from rlff_lightning.dialogue.chat import ChatFormat, ChatSettings
from rlff_lightning.errors import UserError
from rlff_lightning.functional.schedules import warmup_cosine
from rlff_lightning.models.backbone import Backbone, LanguageModel
from rlff_lightning.models.pocket import PocketSettings, build_pocket_model
from rlff_lightning.models.pocket_tokenizer import train_tokenizer
from rlff_lightning.models.saving import save_model
from rlff_lightning.models.sequence_logps import sequence_logps
from rlff_lightning.models.sharding import plain_name
from rlff_lightning.modules.schedules import by_step, check_optimizer
from rlff_lightning.modules.trained import TrainedModule
from rlff_lightning.modules.window import AccumulationWindow, divide_gradients
from rlff_lightning.seeds import run_seed
from rlff_lightning.types import Conversation, Message


class SupervisedBatch(NamedTuple):
    """Prompts and replies in one row each, right-padded. B rows, L tokens."""

    input_ids: Tensor
    """``(B, L)``, int64."""
    mask: Tensor
    """``True`` at real tokens, ``(B, L)``."""
    reply_mask: Tensor
    """``True`` at tokens of the reply, end-of-sequence included, ``(B, L)``."""
    seeker_mask: Tensor
    """``True`` at the seeker's own words, ``(B, L)``."""


class LikelihoodSums(NamedTuple):
    """What a micro-batch adds to its optimizer step. Scalars."""

    loss: Tensor
    """Weighted sum of the negative log-likelihoods, with gradient, nats."""
    weight: Tensor
    """Sum of the weights: what the step's loss is divided by."""
    reply_loss: Tensor
    """Sum over the reply tokens alone, nats."""
    reply_tokens: Tensor
    """How many there are."""


class SupervisedModule(TrainedModule):
    """Maximise the likelihood of human or scripted replies.

    Args:
        backbone: The pretrained language model to train; or
        pocket: sizes of a small one that is trained from scratch, tokenizer included.
        chat: How conversations are shown to it.
        learning_rate: Peak learning rate of AdamW.
        warmup_fraction: Share of the steps in which the rate rises from 0; it then falls to 0
            along a cosine.
        weight_decay: Of AdamW, on matrices only.
        seeker_weight: Loss weight of a seeker's token against a reply's 1; above 0 a model trained
            from scratch learns the language of both sides.
    """

    def __init__(
        self,
        backbone: Backbone | None = None,
        pocket: PocketSettings | None = None,
        chat: ChatSettings | None = None,
        learning_rate: float = 1e-5,
        warmup_fraction: float = 0.1,
        weight_decay: float = 0.01,
        seeker_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if (backbone is None) == (pocket is None):
            raise UserError("SupervisedModule must have either a backbone or a pocket model")
        self.backbone = backbone
        self.pocket = pocket
        self.settings = chat or ChatSettings()
        self.learning_rate = learning_rate
        self.warmup_fraction = warmup_fraction
        self.weight_decay = weight_decay
        check_optimizer(self)
        self.seeker_weight = seeker_weight
        self.model: LanguageModel | None = None
        self._matrices: set[str] = set()
        self._window = AccumulationWindow()

    @override
    def setup(self, stage: str) -> None:
        self.tokenizer = self._load_tokenizer()
        self.chat = ChatFormat(self.tokenizer, self.settings)

    def _load_tokenizer(self) -> Any:
        if self.backbone is not None:
            return self.backbone.tokenizer()
        assert self.pocket is not None
        texts = getattr(self.trainer.datamodule, "training_texts", None)  # type: ignore[attr-defined]
        if texts is None:
            raise UserError(
                "SupervisedModule.pocket learns its tokenizer from the data: data must be one of "
                "rlff_lightning.data.replies, which has training_texts"
            )
        return train_tokenizer(texts(), self.pocket.vocab_size)

    @override
    def configure_model(self) -> None:
        if self.model is not None:
            return
        model = self._build()
        # FSDP1 flattens what it shards.
        self._matrices = {name for name, weight in model.named_parameters() if weight.dim() > 1}
        self.model = self.spread(model)

    def _build(self) -> LanguageModel:
        if self.backbone is not None:
            return self.backbone.build()
        assert self.pocket is not None
        model: LanguageModel = build_pocket_model(
            len(self.tokenizer),
            eos_id=self.tokenizer.eos_token_id,
            pad_id=self.tokenizer.pad_token_id,
            hidden_size=self.pocket.hidden_size,
            num_layers=self.pocket.num_layers,
            num_heads=self.pocket.num_heads,
            max_positions=self.pocket.max_positions,
            seed=run_seed(self.pocket.seed),
        )
        return model.train()

    @override
    def on_before_batch_transfer(
        self, batch: Sequence[tuple[Conversation, Message]], dataloader_idx: int
    ) -> SupervisedBatch:
        pairs = [
            (self.chat.render(context), self.chat.reply_ids(reply)) for context, reply in batch
        ]
        rows = [torch.tensor(prompt.ids + reply) for prompt, reply in pairs]
        seeker = [
            torch.tensor([*prompt.is_seeker, *[False] * len(reply)]) for prompt, reply in pairs
        ]
        input_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        place = torch.arange(input_ids.shape[1])
        ends = torch.tensor([len(row) for row in rows])[:, None]
        starts = torch.tensor([len(prompt.ids) for prompt, _ in pairs])[:, None]
        mask = place < ends
        return SupervisedBatch(
            input_ids=input_ids,
            mask=mask,
            reply_mask=mask & (place >= starts),
            seeker_mask=nn.utils.rnn.pad_sequence(seeker, batch_first=True),
        )

    def model_step(self, batch: SupervisedBatch, *, seeker_weight: float) -> LikelihoodSums:
        """Sum the negative log-likelihood of what counts, in nats."""
        counted = batch.reply_mask | batch.seeker_mask if seeker_weight else batch.reply_mask
        losses = -sequence_logps(self._policy, batch.input_ids, batch.mask, counted)
        is_reply = batch.reply_mask[:, 1:][counted[:, 1:]]
        weights = torch.where(is_reply, 1.0, seeker_weight)
        return LikelihoodSums(
            loss=(losses * weights).sum(),
            weight=weights.sum(),
            reply_loss=losses[is_reply].detach().sum(),
            reply_tokens=is_reply.sum().to(losses.dtype),
        )

    @property
    def _policy(self) -> LanguageModel:
        if self.model is None:
            raise UserError("SupervisedModule must be set up by a Trainer before it is used")
        return self.model

    @override
    def training_step(self, batch: SupervisedBatch, batch_idx: int) -> Tensor:
        return self._window.add(
            self.trainer, *self.model_step(batch, seeker_weight=self.seeker_weight)
        )

    @override
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        loss, weight, reply_loss, reply_tokens = self._window.close(self.trainer)
        divide_gradients(self.parameters(), weight)
        self.log("train/loss", loss / weight)
        self.log("train/reply_loss", reply_loss / reply_tokens, prog_bar=True)

    @override
    def validation_step(self, batch: SupervisedBatch, batch_idx: int) -> None:
        sums = self.model_step(batch, seeker_weight=0.0)
        self.log(
            "val/reply_loss",
            sums.reply_loss / sums.reply_tokens,
            prog_bar=True,
            sync_dist=True,
            batch_size=int(sums.reply_tokens),
        )

    @override
    def configure_optimizers(self) -> Any:
        trained = [(n, p) for n, p in self._policy.named_parameters() if p.requires_grad]
        decayed = [p for n, p in trained if plain_name(n) in self._matrices]
        others = [p for n, p in trained if plain_name(n) not in self._matrices]
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.95))
        num_steps = int(self.trainer.estimated_stepping_batches)
        schedule = warmup_cosine(num_steps, warmup_fraction=self.warmup_fraction)
        return by_step(optimizer, schedule)

    @override
    def on_fit_end(self) -> None:
        # Not when training ends: a run that goes on after its last step trains no more.
        is_trial = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if not is_trial:
            folder = Path(self.trainer.default_root_dir) / "model"
            is_writer = self.trainer.is_global_zero
            save_model(self._policy, self.tokenizer, folder, is_writer=is_writer)
