"""Write simulated futures as they come, one Parquet part per batch; an earlier run's go first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from typing_extensions import override

from rlff_lightning.data.store import write_part
from rlff_lightning.types import LabelledReply


class FuturesWriter(BasePredictionWriter):
    """Write every batch of labelled replies to ``<default_root_dir>/futures``.

    Args:
        folder: Folder below the Trainer's ``default_root_dir``.
    """

    def __init__(self, folder: str = "futures") -> None:
        super().__init__(write_interval="batch")
        self.folder = folder

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            # Parts of a run with more batches or processes would be read as this run's.
            for part in (Path(trainer.default_root_dir) / self.folder).glob("part-*.parquet"):
                part.unlink()
        trainer.strategy.barrier("futures_writer")

    @override
    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: list[LabelledReply],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        name = f"part-{trainer.global_rank:03d}-{batch_idx:05d}.parquet"
        write_part(prediction, Path(trainer.default_root_dir) / self.folder / name)
