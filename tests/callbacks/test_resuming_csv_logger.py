"""A resumed run's metrics are those of a run that was never stopped."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks.resuming_csv_logger import ResumingCSVLogger
from rlff_lightning.errors import UserError

Figures = list[tuple[int, str, float]]


class Counting(BoringModel):
    """Logs figures that tell batch and epoch apart: three batches are an epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("train/batch", 10.0 * self.current_epoch + batch_idx)
        self.log("train/epoch_number", float(self.current_epoch), on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/epoch_number", float(self.current_epoch))


class KilledError(Exception):
    pass


class Dying(Counting):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.global_step == 5:
            raise KilledError


def make(folder: Path, quiet_trainer: Callable[..., Any], **settings: Any) -> Any:
    return quiet_trainer(
        folder,
        **{"max_epochs": 3, **settings},
        limit_train_batches=3,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=ResumingCSVLogger(folder, name="", version=""),
    )


def figures(folder: Path) -> Figures:
    """Every figure with its step and name, sorted; one logged twice is there twice."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return sorted(
        (int(row["step"]), name, float(value))
        for row in rows
        for name, value in row.items()
        if value and name not in {"step", "epoch"}
    )


# Steps 0 to 8; an epoch's own figures stand at its last step.
WHOLE = sorted(
    [(3 * e + b, "train/batch", 10.0 * e + b) for e in range(3) for b in range(3)]
    + [(3 * e + 2, f"{room}/epoch_number", float(e)) for e in range(3) for room in ("train", "val")]
)


def test_a_run_that_died_and_was_resumed_from_last_has_every_step_once(
    tmp_path: Path, quiet_trainer: Callable[..., Any]
) -> None:
    def saver() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / "checkpoints", save_last=True, every_n_train_steps=2)

    settings: dict[str, Any] = {"enable_checkpointing": True}
    with pytest.raises(KilledError):
        make(tmp_path, quiet_trainer, callbacks=[saver()], **settings).fit(Dying())
    # Steps 0 to 4 ran; the checkpoint is from after step 3.
    assert figures(tmp_path)[-1] == (4, "train/batch", 11.0)
    make(tmp_path, quiet_trainer, callbacks=[saver()], **settings).fit(Counting(), ckpt_path="last")
    assert figures(tmp_path) == WHOLE


@pytest.mark.parametrize("steps", range(1, 9))
def test_a_checkpoint_of_any_step_goes_on_in_the_file_of_a_whole_run(
    steps: int, tmp_path: Path, quiet_trainer: Callable[..., Any]
) -> None:
    keep = ModelCheckpoint(tmp_path / "all", "{step}", save_top_k=-1, every_n_train_steps=1)
    settings: dict[str, Any] = {"enable_checkpointing": True, "callbacks": [keep]}
    make(tmp_path, quiet_trainer, **settings).fit(Counting())
    assert figures(tmp_path) == WHOLE
    checkpoint = tmp_path / "all" / f"step={steps}.ckpt"
    make(tmp_path, quiet_trainer).fit(Counting(), ckpt_path=checkpoint)
    assert figures(tmp_path) == WHOLE


def test_a_fresh_run_in_the_same_folder_begins_anew(
    tmp_path: Path, quiet_trainer: Callable[..., Any]
) -> None:
    make(tmp_path, quiet_trainer).fit(Counting())
    make(tmp_path, quiet_trainer, max_epochs=1).fit(Counting())
    assert figures(tmp_path) == [row for row in WHOLE if row[0] < 3]


def test_a_row_at_the_first_step_gives_way_only_to_its_own_columns(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,x\n0,0,1.0\n0,1,2.0\n0,2,9.0\n")
    logger = ResumingCSVLogger(tmp_path, name="", version="")
    logger.log_metrics({"a": 5.0, "epoch": 0}, step=1)
    logger.save()
    assert figures(tmp_path) == [(0, "x", 1.0), (1, "a", 5.0), (1, "x", 2.0)]
    logger.log_metrics({"x": 3.0, "epoch": 0}, step=1)
    logger.save()
    assert figures(tmp_path) == [(0, "x", 1.0), (1, "a", 5.0), (1, "x", 3.0)]


def test_a_run_that_logs_nothing_leaves_the_file_alone(tmp_path: Path) -> None:
    content = "step,x\n0,1.0\n"
    (tmp_path / "metrics.csv").write_text(content)
    logger = ResumingCSVLogger(tmp_path, name="", version="")
    logger.log_hyperparams({"lr": 0.1})
    logger.finalize("success")
    assert (tmp_path / "metrics.csv").read_text() == content


def test_a_new_column_keeps_the_rows_before_it(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,x\n0,1.0\n1,2.0\n")
    logger = ResumingCSVLogger(tmp_path, name="", version="")
    logger.log_metrics({"a": 5.0}, step=2)
    logger.save()
    lines = (tmp_path / "metrics.csv").read_text().split()
    assert lines == ["a,step,x", ",0,1.0", ",1,2.0", "5.0,2,"]


@pytest.mark.parametrize(("content", "found"), [("a\n1\n", "None"), ("step\nx\n", "'x'")])
def test_a_row_without_a_step_is_told_and_the_file_left_alone(
    content: str, found: str, tmp_path: Path
) -> None:
    (tmp_path / "metrics.csv").write_text(content)
    logger = ResumingCSVLogger(tmp_path, name="", version="")
    with pytest.raises(UserError, match=rf"metrics\.csv:2: step must be a number, got {found}; "):
        logger.log_metrics({"a": 1.0}, step=3)
    assert (tmp_path / "metrics.csv").read_text() == content
