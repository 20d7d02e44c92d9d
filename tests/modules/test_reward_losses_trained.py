"""Every loss with every kind of trunk, and gradients that only the whole window decides."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from rlff_lightning.data.labelled import StoredFutures, by_context
from rlff_lightning.data.store import read_parts, write_part
from rlff_lightning.dialogue.reward_format import RewardInput
from rlff_lightning.errors import UserError
from rlff_lightning.functional.reward_losses import (
    OutcomeClassification,
    PairwiseRanking,
    PositiveClassification,
    Regression,
)
from rlff_lightning.functional.reward_objective import RewardLoss
from rlff_lightning.models.backbone import Backbone, LoraSettings
from rlff_lightning.models.head_settings import HeadSettings
from rlff_lightning.models.reward_head import RewardModel
from rlff_lightning.modules.reward_batch import predict
from rlff_lightning.modules.reward_model import RewardModule
from rlff_lightning.modules.ridge_probe import RidgeProbe

LOSSES: list[RewardLoss] = [
    Regression(error_scale=0.2),
    OutcomeClassification(),
    PositiveClassification(),
    PairwiseRanking(margin=0.5),
]
NAMES = [type(loss).__name__ for loss in LOSSES]


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of a few thousand weights with a tokenizer of letters."""
    folder = tmp_path_factory.mktemp("encoder")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = [chr(code) for code in range(33, 127)]
    words = special + letters + [f"##{letter}" for letter in letters]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=1024,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def few_futures(futures_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four contexts with one to four candidates, short enough for a tenth of a second."""
    groups = sorted(
        by_context(read_parts(futures_folder)), key=lambda g: len(g[0].context.messages)
    )
    kept = [
        replace(record, standard_error=0.1 * number)
        for number, group in enumerate(groups[:4])
        for record in group[: number + 1]
    ]
    folder = tmp_path_factory.mktemp("few")
    write_part(kept, folder / "part-0.parquet")
    return folder


def data_of(folder: Path, batch_size: int) -> StoredFutures:
    return StoredFutures(str(folder), batch_size=batch_size, val_fraction=0.0, test_fraction=0.0)


class Watched(RewardModule):
    """Keeps the gradients that the first update is made of."""

    found: dict[str, Tensor]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.found = {
            name: parameter.grad.clone()
            for name, parameter in self.named_parameters()
            if parameter.grad is not None
        }


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_micro_batches_change_neither_loss_nor_gradients(
    loss: RewardLoss,
    pocket_folder: Path,
    few_futures: Path,
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
) -> None:
    found, losses = [], []
    for batch_size, parts in ((4, 1), (1, 4)):
        torch.manual_seed(0)
        module = Watched(Backbone(str(pocket_folder)), loss=loss)
        trainer = quiet_trainer(
            tmp_path, max_steps=1, accumulate_grad_batches=parts, log_every_n_steps=1
        )
        trainer.fit(module, data_of(few_futures, batch_size))
        found.append(module.found)
        losses.append(trainer.callback_metrics["train/loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] > 0
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=2e-6, rtol=1e-4)


TRUNKS = {
    "full": {},
    "lora": {"adapter": LoraSettings(rank=2)},
    "qlora": {"adapter": LoraSettings(rank=2), "quantize": "nf4"},
    "frozen": {"freeze": True},
    "encoder": {"head": HeadSettings(pooling="mean")},
    "encoder_apart": {"head": HeadSettings(pooling="mean", reads="apart")},
    "ensemble": {"head": HeadSettings(members=2)},
}


@pytest.mark.parametrize("kind", list(TRUNKS))
@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_every_loss_trains_every_trunk_and_scores_alike_from_disk(
    loss: RewardLoss,
    kind: str,
    pocket_folder: Path,
    encoder_folder: Path,
    few_futures: Path,
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = dict(TRUNKS[kind])
    head, freeze = options.pop("head", None), options.pop("freeze", False)
    folder = encoder_folder if kind.startswith("encoder") else pocket_folder
    module = RewardModule(
        Backbone(str(folder), **options),
        head=head,
        loss=loss,
        freeze_backbone=freeze,
        learning_rate=1e-2,
        warmup_fraction=0.0,
    )
    data = data_of(few_futures, 4)
    torch.manual_seed(0)
    quiet_trainer(tmp_path, max_steps=3).fit(module, data)
    assert module.model is not None
    model = module.model.eval()
    batch = module.on_before_batch_transfer(by_context(data.part(0)), 0)
    loaded = RewardModel.load(tmp_path / "model")
    assert loaded.settings.kind == loss.target
    with torch.no_grad():
        ours, theirs = (m.values(predict(m, batch)) for m in (model, loaded))
    assert ours.shape == (10,)
    assert ours.isfinite().all()
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


def test_a_frozen_trunk_with_a_solved_head_fits_the_labels_before_any_step(
    encoder_folder: Path,
    futures_folder: Path,
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
) -> None:
    module = RewardModule(
        Backbone(str(encoder_folder)),
        reads=RewardInput(max_messages=2, max_tokens=1024),
        head=HeadSettings(pooling="mean", reads="apart"),
        probe=RidgeProbe(alphas=[1.0], folds=2),
        freeze_backbone=True,
    )
    data = StoredFutures(str(futures_folder), batch_size=16, val_fraction=0.0, test_fraction=0.0)
    # No step is taken, and what is saved calls itself trained.
    quiet_trainer(tmp_path, max_epochs=0).fit(module, data)
    batch = module.on_before_batch_transfer(by_context(data.part(0)), 0)
    model = RewardModel.load(tmp_path / "model")
    with torch.no_grad():
        scores = model.values(predict(model, batch))
    # 80 states fit 160 labels better than their mean does.
    labels = batch.labels.values
    assert ((scores - labels) ** 2).mean() < 0.9 * labels.var()
    assert scores.mean().item() == pytest.approx(labels.mean().item(), abs=1e-4)


def test_a_loss_and_a_head_that_disagree_are_refused(pocket_folder: Path) -> None:
    backbone = Backbone(str(pocket_folder))
    with pytest.raises(UserError, match=r"head\.kind must be 'outcomes' for OutcomeClassification"):
        RewardModule(backbone, head=HeadSettings(kind="binary"), loss=OutcomeClassification())
    with pytest.raises(UserError, match=r"probe must be null and labels .* got .*RidgeProbe"):
        RewardModule(backbone, loss=PositiveClassification(), probe=RidgeProbe())


def test_ranking_without_siblings_is_refused(
    pocket_folder: Path, futures_folder: Path, quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    alone = [group[0] for group in by_context(read_parts(futures_folder))]
    write_part(alone, tmp_path / "futures" / "part-0.parquet")
    module = RewardModule(Backbone(str(pocket_folder)), loss=PairwiseRanking())
    with pytest.raises(UserError, match="every training context has a single reply"):
        quiet_trainer(tmp_path, max_steps=1).fit(module, data_of(tmp_path / "futures", 4))
