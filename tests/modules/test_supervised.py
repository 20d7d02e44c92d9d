from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import override

from rlff_lightning.agents.scripted.corpus import write_corpus
from rlff_lightning.data.records import record_loader
from rlff_lightning.dialogue.turns import reply_contexts
from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.modules.supervised import SupervisedModule
from rlff_lightning.modules.window import AccumulationWindow


class Gradients(Callback):
    """Keeps what the first optimizer step descends on."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        self.found = {
            name: parameter.grad.clone()
            for name, parameter in pl_module.named_parameters()
            if parameter.grad is not None
        }


@pytest.fixture(scope="module")
def first_step(
    pocket_folder: Path, quiet_trainer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], tuple[dict[str, Tensor], float]]:
    """Gradients and logged loss of a step over the same eight replies, so many at a time."""
    dialogues = write_corpus(4, seed=0)
    examples = [example for dialogue in dialogues for example in reply_contexts(dialogue)][:8]

    def take(batch_size: int) -> tuple[dict[str, Tensor], float]:
        kept = Gradients()
        trainer = quiet_trainer(
            tmp_path_factory.mktemp("step"),
            max_steps=1,
            accumulate_grad_batches=8 // batch_size,
            callbacks=[kept],
        )
        module = SupervisedModule(Backbone(str(pocket_folder)), seeker_weight=0.5)
        trainer.fit(module, record_loader(examples, batch_size))
        return kept.found, trainer.callback_metrics["train/reply_loss"].item()

    return take


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_neither_gradient_nor_loss_changes_with_the_micro_batches(
    first_step: Callable[[int], tuple[dict[str, Tensor], float]], batch_size: int
) -> None:
    expected, loss = first_step(8)
    found, logged = first_step(batch_size)
    # Replies differ in length: a mean of the micro-batches' means would be off by per cents.
    assert logged == pytest.approx(loss, rel=1e-5)
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-6), name


class Saves(Callback):
    """Notes how many micro-batches lie behind each checkpoint."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    @override
    def on_save_checkpoint(self, trainer: Trainer, *args: Any) -> None:
        self.batches.append(trainer.fit_loop.epoch_loop.total_batch_idx + 1)


def test_no_checkpoint_is_written_within_an_accumulation_window(
    pocket_folder: Path, quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    examples = [
        example for dialogue in write_corpus(4, seed=0) for example in reply_contexts(dialogue)
    ]
    loaders = [record_loader(examples[:8], 1), record_loader(examples[8:9], 1)]

    def saves(steps: int, **settings: Any) -> list[int]:
        noted = Saves()
        writer = ModelCheckpoint(tmp_path / "checkpoints", save_top_k=-1, **settings)
        sizes = {"max_steps": steps, "accumulate_grad_batches": 2, "val_check_interval": 3}
        trainer = quiet_trainer(
            tmp_path, enable_checkpointing=True, callbacks=[writer, noted], **sizes
        )
        resumed = next((tmp_path / "checkpoints").glob("*"), None)
        module = SupervisedModule(Backbone(str(pocket_folder)))
        trainer.fit(module, *loaders, ckpt_path=resumed)
        return noted.batches

    # Validated after 3, 6 batches: the first of them lies within a window.
    with pytest.warns(UserWarning, match="val_check_interval of 3 batches is no multiple of acc"):
        assert saves(3) == [6]
    # Gone on with after 6 of them, in a new window of the same step.
    assert saves(4, every_n_train_steps=1) == [8]
    with pytest.raises(UserError, match="train_time_interval must be left out where"):
        saves(5, train_time_interval=timedelta(minutes=1))
    with pytest.raises(UserError, match="save_last must be true or false, got 'link'"):
        saves(5, save_last="link")


def test_a_run_resumed_after_its_last_step_still_saves_its_model(
    pocket_folder: Path, quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    examples = [
        example for dialogue in write_corpus(4, seed=0) for example in reply_contexts(dialogue)
    ]
    last = tmp_path / "last.ckpt"

    def fit(folder: Path, ckpt_path: Path | None = None) -> Trainer:
        trainer: Trainer = quiet_trainer(folder, max_steps=2)
        module = SupervisedModule(Backbone(str(pocket_folder)))
        trainer.fit(module, record_loader(examples[:4], 2), ckpt_path=ckpt_path)
        return trainer

    fit(tmp_path / "whole").save_checkpoint(last)
    fit(tmp_path / "resumed", last)
    whole, resumed = (
        load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "resumed")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_window_sums_its_micro_batches_and_begins_anew(
    quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    trainer = quiet_trainer(tmp_path, accumulate_grad_batches=3)
    window = AccumulationWindow()
    # Lightning divides by the three micro-batches of a window, so each must bring three times its
    # sum: 2 -> 6.
    assert window.add(trainer, torch.tensor(2.0), torch.tensor(4.0)) == 6
    window.add(trainer, torch.tensor(5.0), torch.tensor(1.0))
    assert window.close(trainer) == (7, 5)
    window.add(trainer, torch.tensor(1.0), torch.tensor(2.0))
    assert window.close(trainer) == (1, 2)
