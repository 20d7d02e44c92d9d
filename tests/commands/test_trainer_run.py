import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from rlff_lightning.commands.trainer_run import _hush, main
from rlff_lightning.strategies.checkpoint_files import CheckpointFiles


def test_a_warning_that_metrics_are_deleted_is_heard_and_one_of_checkpoints_is_not() -> None:
    loss = (
        "Experiment logs directory warm exists and is not empty. Previous log files in this "
        "directory will be deleted when the new ones are saved!"
    )
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        _hush()
        rank_zero_warn(loss)
        rank_zero_warn("Checkpoint directory warm exists and is not empty.")
    assert [str(warning.message) for warning in heard] == [loss]


class KilledError(Exception):
    """What ends a life."""


def dies_before_the_old_one_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    remove = CheckpointFiles.remove_checkpoint

    def removed(self: Any, path: Any) -> None:
        if Path(path).name == "step=2.ckpt":
            raise KilledError
        remove(self, path)

    monkeypatch.setattr(CheckpointFiles, "remove_checkpoint", removed)


def dies_before_last_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    save = CheckpointFiles.save_checkpoint

    def saved(self: Any, checkpoint: dict[str, Any], path: Any, **rest: Any) -> None:
        if Path(path).name == "last.ckpt" and checkpoint["global_step"] == 3:
            raise KilledError
        save(self, checkpoint, path, **rest)

    monkeypatch.setattr(CheckpointFiles, "save_checkpoint", saved)


@pytest.mark.parametrize(
    ("dies", "left"),
    [
        (dies_before_the_old_one_is_removed, ["step=2.ckpt", "step=3.ckpt"]),
        (dies_before_last_is_written, ["step=3.ckpt"]),
    ],
)
def test_a_run_killed_among_its_checkpoints_leaves_none_over_once_it_went_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: Any, left: list[str]
) -> None:
    folder = tmp_path / "checkpoints"
    saving = {"dirpath": str(folder), "filename": "{step}", "every_n_train_steps": 1}
    writer = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {**saving, "save_last": True},
    }
    trainer = {
        "accelerator": "cpu",
        "default_root_dir": str(tmp_path),
        "max_steps": 5,
        "limit_val_batches": 0,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [writer],
    }
    model = {"class_path": "lightning.pytorch.demos.boring_classes.BoringModel"}
    file = tmp_path / "stage.yaml"
    file.write_text(yaml.safe_dump({"trainer": trainer, "model": model}))
    words = ["fit", "--config", str(file), "--ckpt_path", "last"]
    with monkeypatch.context() as life:
        dies(life)
        with pytest.raises(KilledError):
            main(words)
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", *left]
    assert main(words) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "step=5.ckpt"]


class Terminating(BoringModel):
    """Has its process told to end in its first step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return super().training_step(batch, batch_idx)


def test_a_run_that_sigterm_ends_is_no_success(tmp_path: Path) -> None:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    home = {"accelerator": "cpu", "default_root_dir": str(tmp_path)}
    file = tmp_path / "stage.yaml"
    model = {"class_path": f"{__name__}.Terminating"}
    file.write_text(yaml.safe_dump({"trainer": {**quiet, **home, "max_steps": 5}, "model": model}))
    assert main(["fit", "--config", str(file)]) == 143
