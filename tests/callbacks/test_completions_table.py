from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.completions_table import CompletionsTable
from rlff_lightning.engines.base import Completion
from rlff_lightning.modules.policy import PolicyModule
from rlff_lightning.rollout.group import Group
from rlff_lightning.rollout.scorers import Sampled
from rlff_lightning.types import Conversation, Message


class Tables(CSVLogger):
    """Keeps the tables that it is given."""

    def log_table(
        self, key: str, columns: list[str], data: list[list[Any]], *, step: int | None
    ) -> None:
        self.table = (key, columns, data, step)


@pytest.fixture
def module() -> PolicyModule:
    """A policy stage after its first iteration: one group of two replies."""
    context = Conversation(id="c", messages=(Message(role="seeker", text="I am\ntired"),))
    completions = [
        Completion(token_ids=(1,), logps=(0.0,), text=text, is_finished=True)
        for text in ("rest | sleep", "go on")
    ]
    samples = [
        Sampled(
            context=context,
            text=completion.text,
            reply=Message(role="supporter", text=completion.text),
            token_ids=completion.token_ids,
            is_finished=True,
        )
        for completion in completions
    ]
    group = Group([5], completions, samples, {"future": [0.5, -0.25]}, [1.0, -1.0])
    module = PolicyModule.__new__(PolicyModule)
    module.__dict__["experience"] = SimpleNamespace(groups=[group], iteration=1)
    return module


def test_every_logger_that_shows_tables_gets_the_rows_of_the_parquet_file(
    module: PolicyModule, tmp_path: Path
) -> None:
    tables = Tables(str(tmp_path / "tables"))
    board = TensorBoardLogger(str(tmp_path / "board"))
    loggers = [CSVLogger(str(tmp_path / "csv")), tables, board]
    trainer = Trainer(
        logger=loggers,
        default_root_dir=tmp_path,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    callback = CompletionsTable()
    callback.on_train_batch_end(trainer, module, None, None, 0)
    written = pq.read_table(tmp_path / "completions" / "iteration-000001.parquet").to_pylist()
    key, columns, data, step = tables.table
    assert (key, step) == ("completions", 0)
    assert [dict(zip(columns, row, strict=True)) for row in data] == written
    assert [row["advantage"] for row in written] == [1.0, -1.0]
    board.experiment.flush()
    events = EventAccumulator(board.log_dir).Reload()
    [event] = events.Tensors("completions/text_summary")
    _, _, *lines = event.tensor_proto.string_val[0].decode().split("\n")
    assert [line.count(" | ") for line in lines] == [len(columns) - 1] * 2
    assert "I am tired" in lines[0]
    assert "rest \\| sleep" in lines[0]
