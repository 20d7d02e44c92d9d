import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlff_lightning.data.labelled import StoredFutures
from rlff_lightning.data.store import write_part
from rlff_lightning.functional.reward_losses import PairwiseRanking, Regression
from rlff_lightning.functional.reward_objective import RewardLoss
from rlff_lightning.models.backbone import Backbone
from rlff_lightning.models.pocket import build_pocket_model
from rlff_lightning.models.pocket_tokenizer import train_tokenizer
from rlff_lightning.models.saving import save_model
from rlff_lightning.modules.reward_model import RewardModule
from rlff_lightning.types import Conversation, LabelledReply, Message

TWO = {"strategy": "ddp_fork", "devices": 2}
WORDS = ("one", "two", "three", "four", "five")


def reply(context: int, number: int) -> LabelledReply:
    said = Message(role="seeker", text=" ".join(WORDS[: context + 1]))
    return LabelledReply(
        context=Conversation(id=f"c{context}", messages=(said,), source=f"d{context}"),
        reply=Message(role="supporter", text=" ".join(WORDS[number:])),
        value=0.3 * number - 0.1 * context,
        standard_error=0.1 * number,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random model, and four contexts with one to four replies."""
    folder = tmp_path_factory.mktemp("made")
    tokenizer = train_tokenizer([" ".join(WORDS)] * 5, 320)
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "max_positions": 128}
    ends = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    model = build_pocket_model(len(tokenizer), **ends, **sizes, seed=0)
    save_model(model, tokenizer, folder / "model")
    rows = [reply(context, number) for context in range(4) for number in range(context + 1)]
    write_part(rows, folder / "futures" / "part-0.parquet")
    return folder / "model", folder / "futures"


class Watched(RewardModule):
    """Writes the gradients that the first update is made of."""

    file: Path

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        if self.trainer.is_global_zero:
            found = {n: p.grad for n, p in self.named_parameters() if p.grad is not None}
            torch.save(found, self.file)


@pytest.mark.parametrize("loss", [Regression(error_scale=0.2), PairwiseRanking()])
def test_ranks_change_neither_loss_nor_gradients(
    loss: RewardLoss,
    folders: tuple[Path, Path],
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
) -> None:
    model, futures = folders
    found, losses = [], []
    # The ranks split contexts of one and three replies from those of two and four, or otherwise:
    # their own means would not average to the whole's.
    for name, settings, batch_size in (("one", {}, 4), ("two", TWO, 2)):
        torch.manual_seed(0)
        module = Watched(Backbone(str(model)), loss=loss)
        module.file = tmp_path / f"{name}.pt"
        data = StoredFutures(
            str(futures), batch_size=batch_size, val_fraction=0.0, test_fraction=0.0
        )
        trainer = quiet_trainer(tmp_path / name, max_steps=1, log_every_n_steps=1, **settings)
        trainer.fit(module, data)
        losses.append(trainer.callback_metrics["train/loss"].item())
        found.append(torch.load(module.file, weights_only=True))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=2e-6, rtol=1e-4)


def test_a_context_that_fills_up_a_rank_is_tested_once(
    folders: tuple[Path, Path], quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    model, futures = folders
    quiet_trainer(tmp_path, max_epochs=1).fit(
        RewardModule(Backbone(str(model)), learning_rate=1e-2),
        StoredFutures(str(futures), batch_size=4, val_fraction=0.0, test_fraction=0.0),
    )
    figures = []
    for name, settings in (("one", {}), ("two", TWO)):
        module = RewardModule(Backbone(str(tmp_path / "model")), trained=str(tmp_path / "model"))
        # Three of four contexts: one rank gets a copy to be as busy as the other.
        data = StoredFutures(str(futures), batch_size=1, val_fraction=0.0, test_fraction=0.75)
        trainer = quiet_trainer(tmp_path / name, use_distributed_sampler=True, **settings)
        trainer.test(module, data, verbose=False)
        figures.append(json.loads((tmp_path / name / "quality.json").read_text()))
    one, two = figures
    assert one["test"] == two["test"]
    assert one["models"]["reward_model"] == pytest.approx(two["models"]["reward_model"], abs=1e-6)
