from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file

from rlff_lightning.modules.policy import PolicyModule

# Two iterations of two updates are an epoch; three epochs are twelve steps.
SIZES = {"iterations_per_epoch": 2}
EPOCHS = 3


def checkpoints(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module", params=["max_epochs", "max_steps", "accumulated"])
def limits(request: pytest.FixtureRequest) -> dict[str, int]:
    """Lightning resumes by other code where ``max_steps`` is given."""
    return {
        "max_epochs": {"max_epochs": EPOCHS},
        "max_steps": {"max_steps": 12},
        "accumulated": {"max_epochs": EPOCHS, "accumulate_grad_batches": 2},
    }[request.param]


@pytest.fixture(scope="module")
def undisturbed(
    limits: dict[str, int],
    tmp_path_factory: pytest.TempPathFactory,
    tiny_policy: Callable[..., PolicyModule],
    quiet_trainer: Callable[..., Any],
) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    writer = checkpoints(folder / "checkpoints")
    trainer = quiet_trainer(folder, **limits, enable_checkpointing=True, callbacks=[writer])
    trainer.fit(tiny_policy(rollout=SIZES))
    assert trainer.global_step == 12
    return folder


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 8, 11])
def test_a_run_resumed_after_any_step_ends_with_the_same_bits(
    step: int,
    limits: dict[str, int],
    undisturbed: Path,
    tiny_policy: Callable[..., PolicyModule],
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
) -> None:
    trainer = quiet_trainer(tmp_path, **limits)
    trainer.fit(
        tiny_policy(rollout=SIZES), ckpt_path=undisturbed / "checkpoints" / f"step={step}.ckpt"
    )
    assert trainer.global_step == 12
    expected, found = trained(undisturbed), trained(tmp_path)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
