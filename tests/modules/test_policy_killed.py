import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("vllm")

CONFIG = """\
seed_everything: 0
trainer:
  accelerator: cpu
  default_root_dir: {run}
  max_epochs: 3
  logger: false
  enable_model_summary: false
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{dirpath: {run}/checkpoints, every_n_train_steps: 1, save_last: true}}
    - class_path: interruption.Interruption
model:
  class_path: rlff_lightning.modules.policy.PolicyModule
  init_args:
    policy: {{model_name_or_path: {model}}}
    engine:
      class_path: rlff_lightning.engines.vllm.VLLMEngine
      init_args: {{model_name_or_path: {model}, max_model_len: 320, kv_cache_gib: 0.03125}}
    contexts:
      class_path: rlff_lightning.rollout.contexts.LiveConversations
      init_args:
        seeker: {{class_path: rlff_lightning.agents.scripted.seeker.ScriptedSeeker}}
        critic: {{class_path: rlff_lightning.agents.scripted.seeker.ScriptedCritic}}
        max_turns: 3
    scorers:
      - class_path: rlff_lightning.rollout.reward_scorer.RewardModelScorer
        init_args: {{folder: {reward}}}
      - class_path: rlff_lightning.rollout.scorers.FormatScorer
    objective:
      class_path: rlff_lightning.functional.objectives.GRPO
      init_args: {{kl_coef: 0.05}}
    rollout: {{prompts: 4, group_size: 4, max_tokens: 12, updates: 2}}
    learning_rate: 1.0e-3
"""

INTERRUPTION = """\
import os, signal
from lightning.pytorch.callbacks import Callback

class Interruption(Callback):
    def on_after_backward(self, trainer, module):
        if str(trainer.global_step) == os.environ.get("KILLED_AFTER_STEP"):
            os.kill(os.getpid(), signal.SIGKILL)
"""


def fit(folder: Path, run: str, *words: str, **environment: str) -> int:
    command = [sys.executable, "-m", "rlff_lightning.cli", "fit", "--config", f"{run}.yaml", *words]
    variables = {**os.environ, "PYTHONPATH": str(folder), **environment}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, check=False)
    return done.returncode


def test_a_run_killed_within_an_iteration_and_resumed_ends_with_the_same_bits(
    pocket_folder: Path, reward_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "interruption.py").write_text(INTERRUPTION)
    for run in ("whole", "killed"):
        text = CONFIG.format(run=run, model=pocket_folder, reward=reward_folder)
        (tmp_path / f"{run}.yaml").write_text(text)
    assert fit(tmp_path, "whole") == 0
    # Steps 3 and 4 share the second rollout: step 4 is under way when the process dies.
    assert fit(tmp_path, "killed", KILLED_AFTER_STEP="3") == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model").exists()
    assert fit(tmp_path, "killed", "--ckpt_path", "last") == 0

    whole, resumed, start = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "whole" / "model", tmp_path / "killed" / "model", pocket_folder)
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert all(not torch.equal(whole[name], start[name]) for name in whole)
    last = torch.load(tmp_path / "killed" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 6
