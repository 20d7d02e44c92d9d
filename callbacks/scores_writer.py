"""Write scores in the order of their rows; a run that was stopped is gone on with."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from rlff_lightning.data.identity import describe, identity_of
from rlff_lightning.data.scoring_rows import RowsToScore
from rlff_lightning.errors import UserError
from rlff_lightning.modules.scoring import Rewards, ScoringModule

SCHEMA = pa.schema([("row", pa.int64()), ("id", pa.string()), ("reward", pa.float32())])
"""Place in the scored file from 0, the row's id, and its reward."""


class ScoresWriter(Callback):
    """Write ``row``, ``id`` and ``reward`` of every row below the Trainer's ``default_root_dir``.

    Every batch is kept at once. The file appears when all rows are scored; a run that was stopped
    before goes on where it was, as long as neither the rows nor the scorer changed.

    Args:
        file: Name of the file, ``.parquet`` or ``.jsonl``.
    """

    def __init__(self, file: str = "scores.parquet") -> None:
        if Path(file).suffix not in {".parquet", ".jsonl"}:
            raise UserError(f"ScoresWriter.file must end in .parquet or .jsonl, got {file!r}")
        self.file = file

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, ScoringModule) or not isinstance(data, RowsToScore):
            raise UserError(
                "ScoresWriter needs a ScoringModule with RowsToScore as data, got "
                f"{type(pl_module).__name__} with {type(data).__name__}"
            )
        self._target = Path(trainer.default_root_dir) / self.file
        self._parts = self._target.with_name(f".{self._target.name}.parts")
        self._num_rows = data.num_rows
        if trainer.is_global_zero:
            self._open(pl_module, data)
        trainer.strategy.barrier("scores_writer_open")
        done = {row for part in self._parts.glob("*.parquet") for row in _numbers(part)}
        if done:
            rank_zero_info(f"{self._target}: {len(done)} rows were scored before, going on")
        data.leave_out(done)

    def _open(self, module: ScoringModule, data: RowsToScore) -> None:
        """Keep the parts of a run that scored the same rows alike, and no others."""
        settings = {"scorer": describe(module.scorer), "data": describe_rows(data)}
        wanted = json.dumps(identity_of(settings), indent=1, sort_keys=True)
        note = self._parts / "identity.json"
        if not note.is_file() or note.read_text(encoding="utf-8") != wanted:
            shutil.rmtree(self._parts, ignore_errors=True)
            self._parts.mkdir(parents=True)
            note.write_text(wanted, encoding="utf-8")

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        rewards: Rewards = outputs
        rows = [{"row": row, "id": name, "reward": r} for row, (name, r) in rewards.items()]
        path = self._parts / f"part-{min(rewards):09d}.parquet"
        partial = path.with_suffix(".partial")
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial)
        partial.replace(path)

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier("scores_writer_end")
        if not trainer.is_global_zero:
            return
        parts = [pq.read_table(part) for part in self._parts.glob("*.parquet")]
        scores = pa.concat_tables([SCHEMA.empty_table(), *parts]).sort_by("row")
        if len(scores) < self._num_rows:
            rank_zero_info(f"{len(scores)} of {self._num_rows} rows are scored; run again for all")
            return
        partial = self._target.with_name(f".{self._target.name}.partial")
        if self._target.suffix == ".parquet":
            pq.write_table(scores, partial)
        else:
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in scores.to_pylist()]
            partial.write_text("".join(lines), encoding="utf-8")
        partial.replace(self._target)
        shutil.rmtree(self._parts)
        rank_zero_info(f"{self._target}: rewards of {len(scores)} rows")


def describe_rows(data: RowsToScore) -> dict[str, Any]:
    """Name what decides which rows there are."""
    return {"file": str(data.file), "has_reasoning": data.has_reasoning}


def _numbers(part: Path) -> list[int]:
    numbers: list[int] = pq.read_table(part, columns=["row"])["row"].to_pylist()
    return numbers
