"""What every test relies on: no network, no deadline on a busy machine, the command itself."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

Rlff = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def rlff(tmp_path: Path) -> Rlff:
    """Run the command as a user does, in a folder of its own."""

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "rlff_lightning.cli", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def quiet_trainer() -> Callable[..., Any]:
    """Make a Trainer on CPU that writes nothing of its own."""
    import torch
    from lightning.pytorch import Trainer

    # Models this small only wait for a second thread.
    torch.set_num_threads(1)

    def make(folder: Path, **settings: Any) -> Any:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        quiet |= {"enable_model_summary": False, "accelerator": "cpu", "devices": 1}
        return Trainer(default_root_dir=folder, **{**quiet, **settings})

    return make


@pytest.fixture(scope="session")
def pocket_folder(
    tmp_path_factory: pytest.TempPathFactory, quiet_trainer: Callable[..., Any]
) -> Path:
    """A language model of 60 thousand weights, after a few steps of the real warm start."""
    from lightning.pytorch import seed_everything

    from rlff_lightning.data.replies import ScriptedReplies
    from rlff_lightning.models.pocket import PocketSettings
    from rlff_lightning.modules.supervised import SupervisedModule

    seed_everything(0, verbose=False)
    folder = tmp_path_factory.mktemp("warm_start")
    module = SupervisedModule(
        pocket=PocketSettings(
            vocab_size=400, hidden_size=32, num_layers=2, num_heads=1, max_positions=512
        ),
        learning_rate=1e-2,
        seeker_weight=0.2,
    )
    data = ScriptedReplies(num_dialogues=60, batch_size=16, val_fraction=0.1)
    quiet_trainer(folder, max_steps=40, limit_val_batches=0).fit(module, data)
    return folder / "model"


@pytest.fixture(scope="session")
def futures_folder(
    tmp_path_factory: pytest.TempPathFactory, quiet_trainer: Callable[..., Any]
) -> Path:
    """Labelled replies to 40 contexts, simulated by the real stage with a scripted cast."""
    from callbacks.futures_writer import FuturesWriter
    from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
    from rlff_lightning.agents.scripted.supporter import MixedSupporter
    from rlff_lightning.modules.simulation import SimulationModule

    folder = tmp_path_factory.mktemp("futures")
    module = SimulationModule(
        MixedSupporter(), ScriptedSeeker(), ScriptedCritic(), num_contexts=40, batch_size=16
    )
    trainer = quiet_trainer(folder, callbacks=[FuturesWriter()])
    trainer.predict(module, return_predictions=False)
    return folder / "futures"


@pytest.fixture(scope="session")
def reward_folder(
    tmp_path_factory: pytest.TempPathFactory,
    quiet_trainer: Callable[..., Any],
    pocket_folder: Path,
    futures_folder: Path,
) -> Path:
    """A reward model, trained for one epoch by the real stage."""
    from lightning.pytorch import seed_everything

    from rlff_lightning.data.labelled import StoredFutures
    from rlff_lightning.models.backbone import Backbone
    from rlff_lightning.modules.reward_model import RewardModule

    seed_everything(0, verbose=False)
    folder = tmp_path_factory.mktemp("reward_model")
    module = RewardModule(Backbone(str(pocket_folder)), learning_rate=3e-3)
    data = StoredFutures(str(futures_folder), batch_size=8)
    quiet_trainer(folder, max_epochs=1, limit_val_batches=0).fit(module, data)
    return folder / "model"
