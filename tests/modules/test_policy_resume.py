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
# Nothing is left to train, but the model is still to be saved.
FINAL = ("step=12", "epoch=2")


def checkpoints(folder: Path) -> list[ModelCheckpoint]:
    keep_all: dict[str, Any] = {"dirpath": folder, "save_top_k": -1}
    return [
        ModelCheckpoint(**keep_all, filename="{step}", every_n_train_steps=1),
        ModelCheckpoint(**keep_all, filename="{epoch}", every_n_epochs=1),
    ]


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
    writers = checkpoints(folder / "checkpoints")
    trainer = quiet_trainer(folder, **limits, enable_checkpointing=True, callbacks=writers)
    trainer.fit(tiny_policy(rollout=SIZES))
    assert trainer.global_step == 12
    return folder


# An epoch is four steps: 1, 3 and 5 are in the middle of an iteration, 4 and 8 end an epoch.
@pytest.mark.parametrize(
    "name", ["step=1", "step=2", "step=4", "step=5", "epoch=0", "epoch=1", *FINAL]
)
def test_a_run_resumed_from_any_checkpoint_ends_with_the_same_bits(
    name: str,
    limits: dict[str, int],
    undisturbed: Path,
    tiny_policy: Callable[..., PolicyModule],
    quiet_trainer: Callable[..., Any],
    tmp_path: Path,
) -> None:
    trainer = quiet_trainer(tmp_path, **limits)
    checkpoint = undisturbed / "checkpoints" / f"{name}.ckpt"
    trainer.fit(tiny_policy(rollout=SIZES), ckpt_path=checkpoint, weights_only=True)
    assert trainer.global_step == 12
    expected, found = trained(undisturbed), trained(tmp_path)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
