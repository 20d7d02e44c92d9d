from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch import Tensor
from torch.multiprocessing import ProcessRaisedException

from rlff_lightning.modules.policy import PolicyModule
from rlff_lightning.rollout.scorers import FormatScorer, Sampled

TWO = {"strategy": "ddp_fork", "devices": 2}


class BrokenOnSecondRank(FormatScorer):
    """Has no number for the second rank's completions."""

    def score(self, samples: Sequence[Sampled]) -> Tensor:
        return super().score(samples) + (torch.nan if torch.distributed.get_rank() else 0.0)


@pytest.mark.timeout(120)
def test_what_stops_one_process_ends_both(
    tiny_policy: Callable[..., PolicyModule], quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    module = tiny_policy(scorers=[BrokenOnSecondRank()])
    # The first process waits for the other's part of the window, and must not for ever; on a busy
    # machine it may be the one that is heard.
    line = "Scorer format gave 16 of 16 completions|Connection closed by peer"
    with pytest.raises(ProcessRaisedException, match=line):
        quiet_trainer(tmp_path, **TWO, max_steps=1).fit(module)


def test_two_processes_resume_each_with_its_own_experience(
    tiny_policy: Callable[..., PolicyModule], quiet_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    writer = ModelCheckpoint(
        tmp_path / "checkpoints", filename="{step}", every_n_train_steps=1, save_top_k=-1
    )
    whole = quiet_trainer(
        tmp_path / "whole", **TWO, max_steps=4, enable_checkpointing=True, callbacks=[writer]
    )
    whole.fit(tiny_policy())
    middle = tmp_path / "checkpoints" / "step=1.ckpt"  # one of the rollout's two updates is left

    state = torch.load(middle, weights_only=True)["loops"]["fit_loop"]["state_dict"]
    first, second = state["combined_loader"][0]["ranks"]
    assert first["seed"] != second["seed"]
    assert first["contexts"]["live"] != second["contexts"]["live"]

    quiet_trainer(tmp_path / "resumed", **TWO, max_steps=4).fit(tiny_policy(), ckpt_path=middle)
    expected, found = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "resumed")
    )
    assert all(torch.equal(expected[name], found[name]) for name in expected)

    # Alone the run goes on too, but what two processes had sampled was theirs: the second of the
    # rollout's updates is made on a rollout of its own.
    alone = tiny_policy()
    trainer = quiet_trainer(tmp_path / "alone", max_steps=4)
    trainer.fit(alone, ckpt_path=middle)
    assert trainer.global_step == 4
    assert alone.experience is not None
    assert alone.experience.iteration == 1 + 2
    assert alone.experience.sampler.seed not in (first["seed"], second["seed"])
