import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file

from rlff_lightning.data.labelled import StoredFutures
from rlff_lightning.data.store import read_parts, write_part
from rlff_lightning.dialogue.reward_format import RewardFormat
from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.models.reward_head import RewardModel
from rlff_lightning.modules.reward_batch import predict
from rlff_lightning.modules.reward_model import RewardModule
from rlff_lightning.rollout.reward_scorer import RewardModelScorer
from rlff_lightning.rollout.scorers import Sampled
from rlff_lightning.types import LabelledReply


def sampled(record: LabelledReply) -> Sampled:
    text = record.reply.text
    return Sampled(
        context=record.context, text=text, reply=record.reply, token_ids=(), is_finished=True
    )


@pytest.fixture(scope="module")
def labelled(futures_folder: Path) -> list[LabelledReply]:
    return read_parts(futures_folder)


def one_by_one(model: RewardModel, folder: Path, records: list[LabelledReply]) -> torch.Tensor:
    shown = RewardFormat(Backbone(str(folder)).tokenizer())
    with torch.no_grad():
        scores = []
        for record in records:
            ids = torch.tensor([shown.ids(record.context, record.reply)])
            scores.append(model.values(model(ids, torch.ones_like(ids))))
    return torch.cat(scores)


def test_a_label_that_the_words_give_away_is_learned_and_the_saved_model_scores_as_in_training(
    pocket_folder: Path,
    labelled: list[LabelledReply],
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
) -> None:
    # A reply that asks is worth 0.9, any other -0.7.
    told = [replace(r, value=0.9 if "?" in r.reply.text else -0.7) for r in labelled]
    write_part(told, tmp_path / "futures" / "part-0.parquet")
    module = RewardModule(Backbone(str(pocket_folder)), learning_rate=3e-3)
    data = StoredFutures(str(tmp_path / "futures"), batch_size=2)
    trainer = quiet_trainer(tmp_path, max_epochs=20, limit_val_batches=0, gradient_clip_val=1.0)
    trainer.fit(module, data)
    learned = trainer.callback_metrics["train/mse"].item()
    tested = trainer.test(module, data, verbose=False)[0]
    # In units of the labels' spread, to predict their mean would err by 1.
    assert learned < 0.1
    assert tested["test/mse"] < 0.5 * tested["test/training_mean/mse"]

    some = labelled[::12]
    saved = one_by_one(RewardModel.load(tmp_path / "model"), tmp_path / "model", some)
    assert module.model is not None
    torch.testing.assert_close(
        saved, one_by_one(module.model.eval(), pocket_folder, some), rtol=0, atol=1e-6
    )
    asks = torch.tensor(["?" in record.reply.text for record in some])
    assert asks.any()
    assert ((saved > 0.1) == asks).all()


def test_the_scorer_gives_every_reply_the_score_it_has_by_itself(
    reward_folder: Path, labelled: list[LabelledReply]
) -> None:
    expected = one_by_one(RewardModel.load(reward_folder), reward_folder, labelled)
    assert expected.std() > 1e-3
    for batch_size in (1, 5, 128):
        scorer = RewardModelScorer(str(reward_folder), batch_size=batch_size)
        scorer.start(torch.device("cpu"))
        found = scorer.score([sampled(record) for record in labelled])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_training_predicts_a_group_of_unequal_replies_as_each_by_itself(
    reward_folder: Path,
    futures_folder: Path,
    labelled: list[LabelledReply],
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
) -> None:
    module = RewardModule(Backbone(str(reward_folder)), trained=str(reward_folder))
    data = StoredFutures(str(futures_folder))
    quiet_trainer(tmp_path).test(module, data, verbose=False)
    assert module.model is not None
    # Two contexts, one with a reply less: a copy fills it up and must not be counted.
    first = labelled[0].context.id
    groups = [
        [record for record in labelled if record.context.id == first],
        [record for record in labelled if record.context.id != first][:1],
    ]
    batch = module.on_before_batch_transfer(groups, 0)
    assert int(batch.is_counted.sum()) == len(groups[0]) + 1
    with torch.no_grad():
        found = module.model.values(predict(module.model, batch))
    expected = one_by_one(module.model, reward_folder, groups[0] + groups[1])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    labels = [record.value for group in groups for record in group]
    assert batch.labels.values.tolist() == pytest.approx(labels)


def test_a_checkpoint_of_a_fit_that_never_ended_can_be_tested_and_nothing_else_untrained_can(
    pocket_folder: Path, futures_folder: Path, quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    data = StoredFutures(str(futures_folder), batch_size=8)
    module = RewardModule(Backbone(str(pocket_folder)), learning_rate=3e-3)
    saving = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=1)
    callbacks = {"enable_checkpointing": True, "callbacks": [saving]}
    quiet_trainer(tmp_path, max_steps=2, limit_val_batches=0, **callbacks).fit(module, data)
    fresh = RewardModule(Backbone(str(pocket_folder)))
    trainer = quiet_trainer(tmp_path)
    with pytest.raises(UserError, match="head was never trained cannot be tested"):
        trainer.test(fresh, data, verbose=False)
    trainer.test(fresh, data, ckpt_path=tmp_path / "step=2.ckpt", verbose=False)
    assert fresh.model is not None
    assert not fresh.model.is_trained


def test_an_untrained_head_and_other_data_are_refused(
    pocket_folder: Path, quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    untrained = RewardModule(Backbone(str(pocket_folder)))
    untrained.setup("fit")
    untrained.configure_model()
    assert untrained.model is not None
    untrained.model.save_pretrained(tmp_path / "model", untrained.tokenizer)
    with pytest.raises(UserError, match="never trained"):
        RewardModelScorer(str(tmp_path / "model")).start(torch.device("cpu"))
    trained = str(tmp_path / "model")
    with pytest.raises(UserError, match="never trained"):
        RewardModule(Backbone(str(pocket_folder)), trained=trained).configure_model()


def test_a_fit_of_no_step_leaves_a_head_that_cannot_score(
    pocket_folder: Path, futures_folder: Path, quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    module = RewardModule(Backbone(str(pocket_folder)))
    quiet_trainer(tmp_path, max_steps=0).fit(module, StoredFutures(str(futures_folder)))
    with pytest.raises(UserError, match="never trained"):
        RewardModel.load(tmp_path / "model")


def test_a_fit_that_diverged_saves_nothing(
    pocket_folder: Path, futures_folder: Path, quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    module = RewardModule(Backbone(str(pocket_folder)), learning_rate=1e30, warmup_fraction=0.0)
    trainer = quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0)
    with pytest.raises(UserError, match="training diverged"):
        trainer.fit(module, StoredFutures(str(futures_folder), batch_size=2))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"kind": "ordinal"}, "damaged: HeadSettings.kind must be one of"),
        ({"class_values": None}, "damaged"),
        ({"label_std": "x"}, "damaged"),
        ({"members": "2"}, "damaged"),
        ({"members": 2}, "the head's weights do not fit its settings"),
        ({"is_trained": "false"}, "never trained"),
    ],
)
def test_damaged_settings_of_a_reward_model_are_one_line(
    changed: dict[str, Any], line: str, reward_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(reward_folder, tmp_path / "model")
    file = tmp_path / "model" / "reward_head.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(UserError, match=line):
        RewardModel.load(tmp_path / "model")


def test_a_head_that_was_cut_off_or_is_not_finite_never_scores(
    reward_folder: Path, labelled: list[LabelledReply], tmp_path: Path
) -> None:
    shutil.copytree(reward_folder, tmp_path / "model")
    file = tmp_path / "model" / "reward_head.safetensors"
    weights = {name: weight * torch.nan for name, weight in load_file(file).items()}
    save_file(weights, file)
    scorer = RewardModelScorer(str(tmp_path / "model"))
    scorer.start(torch.device("cpu"))
    with pytest.raises(UserError, match="scores are not finite"):
        scorer.score([sampled(labelled[0])])
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match="damaged"):
        RewardModel.load(tmp_path / "model")
