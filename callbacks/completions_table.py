"""Keep samples of what the policy says while it learns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from typing_extensions import override

from rlff_lightning.errors import UserError
from rlff_lightning.modules.policy import PolicyModule
from rlff_lightning.rollout.group import Group


@runtime_checkable
class TableLogger(Protocol):
    """A logger that shows tables, as Lightning's for Weights & Biases does."""

    def log_table(
        self, key: str, columns: list[str], data: list[list[Any]], *, step: int | None
    ) -> None:
        """Log a table's rows."""


class CompletionsTable(Callback):
    """Write whole groups with rewards and advantages to ``completions/*.parquet``.

    The run's loggers get the same rows: TensorBoard as text, those with ``log_table`` as a table.

    Args:
        every: Iterations between two parts.
        num_groups: Groups per part.
    """

    def __init__(self, every: int = 10, num_groups: int = 4) -> None:
        if every < 1 or num_groups < 1:
            raise UserError("CompletionsTable.every and num_groups must be at least 1")
        self.every = every
        self.num_groups = num_groups
        self._written = 0

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        experience = pl_module.experience if isinstance(pl_module, PolicyModule) else None
        if experience is None or not experience.groups or experience.iteration == self._written:
            return
        if trainer.is_global_zero and (experience.iteration - 1) % self.every == 0:
            name = f"iteration-{experience.iteration:06d}.parquet"
            folder = Path(trainer.default_root_dir) / "completions"
            folder.mkdir(parents=True, exist_ok=True)
            rows = _rows(experience.groups[: self.num_groups], experience.iteration)
            partial = folder / f".{name}.partial"
            pq.write_table(pa.Table.from_pylist(rows), partial)
            partial.replace(folder / name)
            self._log(trainer, rows)
        self._written = experience.iteration

    def _log(self, trainer: Trainer, rows: list[dict[str, Any]]) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("completions", _markdown(rows), trainer.global_step)
            elif isinstance(logger, TableLogger):
                data = [list(row.values()) for row in rows]
                logger.log_table("completions", list(rows[0]), data, step=trainer.global_step)


def _markdown(rows: Sequence[dict[str, Any]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(map(_cell, row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _rows(groups: list[Group], iteration: int) -> list[dict[str, Any]]:
    return [
        {
            "iteration": iteration,
            "context_id": sample.context.id,
            "turn": sample.context.num_turns,
            "seeker": sample.context.messages[-1].text,
            "completion": sample.text,
            "is_finished": sample.is_finished,
            "advantage": group.advantages[place],
            **{f"reward/{name}": values[place] for name, values in group.rewards.items()},
        }
        for group in groups
        for place, sample in enumerate(group.samples)
    ]
