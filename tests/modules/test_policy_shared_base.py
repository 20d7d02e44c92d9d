import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file

from rlff_lightning.commands.trainer_run import main
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


def test_the_head_is_trained_and_saved_with_the_adapter(lora_reward: Path) -> None:
    # Both start at zero: what LoRA adds, and the head's bias.
    adapter = load_file(lora_reward / "adapter_model.safetensors")
    added = [weight.abs().max() for name, weight in adapter.items() if "lora_B" in name]
    assert min(added) > 1e-3
    assert load_file(lora_reward / "reward_head.safetensors")["bias"].abs().max() > 1e-3
    assert not (lora_reward / "model.safetensors").exists()


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


STAGE = """
seed_everything: 0
trainer:
  accelerator: cpu
  default_root_dir: {run}
  max_epochs: 1
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 1
  callbacks:
    - class_path: callbacks.reward_drift.RewardDrift
      init_args:
        every: 1
        num_groups: 2
        simulated:
          class_path: rlff_lightning.modules.direct_scorer.FutureScorer
          init_args:
            seeker: {{class_path: rlff_lightning.agents.scripted.seeker.ScriptedSeeker}}
            critic: {{class_path: rlff_lightning.agents.scripted.seeker.ScriptedCritic}}
            futures: {{num_futures: 1, look_ahead: 2}}
  logger:
    class_path: callbacks.resuming_csv_logger.ResumingCSVLogger
    init_args: {{save_dir: {run}, name: "", version: ""}}
model:
  class_path: rlff_lightning.modules.policy.PolicyModule
  init_args:
    policy: {{model_name_or_path: {base}, adapter: {{rank: 4}}}}
    engine:
      class_path: rlff_lightning.engines.transformers.TransformersEngine
      init_args: {{model_name_or_path: {base}, max_model_len: 512}}
    contexts:
      class_path: rlff_lightning.rollout.contexts.LiveConversations
      init_args:
        seeker: {{class_path: rlff_lightning.agents.scripted.seeker.ScriptedSeeker}}
        critic: {{class_path: rlff_lightning.agents.scripted.seeker.ScriptedCritic}}
    scorers:
      - class_path: rlff_lightning.rollout.reward_scorer.RewardModelScorer
        init_args: {{folder: {reward}, share_base: true}}
      - class_path: rlff_lightning.rollout.scorers.FormatScorer
    objective:
      class_path: rlff_lightning.functional.objectives.GRPO
      init_args: {{kl_coef: 0.02}}
    rollout: {{prompts: 2, group_size: 3, max_tokens: 12, iterations_per_epoch: 2}}
    learning_rate: 1.0e-3
"""


def test_one_base_in_three_roles_and_its_watch_run_from_a_config(
    pocket_folder: Path, lora_reward: Path, tmp_path: Path
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(STAGE.format(run=tmp_path / "run", base=pocket_folder, reward=lora_reward))
    assert main(["fit", "--config", str(file)]) == 0
    with (tmp_path / "run" / "metrics.csv").open() as table:
        rows = list(csv.DictReader(table))
    for key in ("drift/agreement", "drift/gap", "rollout/corr/future/length", "train/kl"):
        assert len([row[key] for row in rows if row[key]]) == 2
    # The reference is the policy without its adapter: it is where the policy starts.
    assert float(rows[0]["train/kl"]) == pytest.approx(0, abs=1e-6)
