from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file

from rlff_lightning.data.labelled import StoredFutures
from rlff_lightning.errors import UserError
from rlff_lightning.models.backbone import Backbone, LoraSettings
from rlff_lightning.modules.policy import PolicyModule
from rlff_lightning.modules.reward_model import RewardModule
from rlff_lightning.rollout.reward_scorer import RewardModelScorer


@pytest.fixture(scope="module")
def lora_reward(
    tmp_path_factory: pytest.TempPathFactory,
    quiet_trainer: Callable[..., Any],
    pocket_folder: Path,
    futures_folder: Path,
) -> Path:
    """A reward model with an adapter on the warm start, trained by the real stage."""
    seed_everything(0, verbose=False)
    folder = tmp_path_factory.mktemp("lora_reward")
    backbone = Backbone(str(pocket_folder), adapter=LoraSettings(rank=4))
    module = RewardModule(backbone, learning_rate=1e-2)
    data = StoredFutures(str(futures_folder), batch_size=8)
    quiet_trainer(folder, max_epochs=2, limit_val_batches=0).fit(module, data)
    return folder / "model"


class Rewards(Callback):
    """Keeps the learned reward of every sample."""

    def __init__(self) -> None:
        self.found: list[list[float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        self.found += [group.rewards["future"] for group in pl_module.experience.groups]


def test_a_reward_model_on_the_policys_base_scores_alike_and_is_neither_trained_nor_saved(
    tiny_policy: Callable[..., PolicyModule],
    quiet_trainer: Callable[..., Any],
    pocket_folder: Path,
    lora_reward: Path,
    tmp_path: Path,
) -> None:
    found = {}
    for share_base in (False, True):
        folder = tmp_path / str(share_base)
        rewards, saving = Rewards(), ModelCheckpoint(folder, filename="end", every_n_train_steps=2)
        trainer = quiet_trainer(
            folder, max_steps=2, enable_checkpointing=True, callbacks=[rewards, saving]
        )
        backbone = Backbone(
            str(pocket_folder), adapter=LoraSettings(rank=4), gradient_checkpointing=True
        )
        module = tiny_policy(
            policy=backbone,
            scorers=[RewardModelScorer(str(lora_reward), share_base=share_base)],
            learning_rate=1e-2,
        )
        trainer.fit(module)
        checkpoint = torch.load(folder / "end.ckpt", weights_only=True)
        [optimizer] = trainer.optimizers
        found[share_base] = (
            torch.tensor(rewards.found),
            load_file(folder / "adapter" / "adapter_model.safetensors").keys(),
            list(checkpoint["state_dict"]),
            sum(len(group["params"]) for group in optimizer.param_groups),
            {path.relative_to(folder).as_posix() for path in folder.rglob("*")},
        )
    apart, shared = found[False], found[True]
    assert apart[0].std() > 1e-3
    torch.testing.assert_close(shared[0], apart[0], rtol=0, atol=1e-5)
    # Neither adapter nor checkpoint nor optimizer nor what an engine is sent has more in it.
    assert shared[1:] == apart[1:]


def test_a_full_policy_has_no_base_to_share(
    tiny_policy: Callable[..., PolicyModule],
    quiet_trainer: Callable[..., Any],
    lora_reward: Path,
    tmp_path: Path,
) -> None:
    module = tiny_policy(scorers=[RewardModelScorer(str(lora_reward), share_base=True)])
    with pytest.raises(UserError, match=r"LoRA policy.*share_base: false"):
        quiet_trainer(tmp_path, max_steps=1).fit(module)


def test_without_a_policy_a_shared_base_is_refused(lora_reward: Path) -> None:
    scorer = RewardModelScorer(str(lora_reward), share_base=True)
    scorer.start(torch.device("cpu"))
    with pytest.raises(UserError, match="share_base must be false"):
        scorer.score([])
