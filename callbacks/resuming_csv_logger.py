"""Metrics in a CSV file that a resumed run goes on with."""

import csv

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from rlff_lightning.errors import UserError

_WHEN = {"step", "epoch"}
_Row = dict[str, str]


class ResumingCSVLogger(CSVLogger):
    """Lightning's CSV logger, but rows of earlier runs stay in ``metrics.csv``.

    A run goes on from the first step that it logs: rows of earlier runs after that step give way,
    and so does a row at that step once one of its columns is logged there anew. A resumed run thus
    repeats no step, and a fresh one that logs as often begins anew. Arguments as in ``CSVLogger``.
    """

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = _ResumingWriter(self.log_dir)
        assert isinstance(self._experiment, ExperimentWriter)
        return self._experiment


class _ResumingWriter(ExperimentWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._first = -1  # No step yet.
        self._num_earlier = 0

    @override
    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        if step is None:
            step = len(self.metrics)
        if self._first < 0:
            self._first = step
            self._go_on()
        if step == self._first and self._num_earlier:
            self._give_way(metrics_dict.keys() - _WHEN)
        super().log_metrics(metrics_dict, step)

    @override
    def _check_log_dir_exists(self) -> None:
        # Lightning's deletes the file here, before the run has logged anything.
        return

    @override
    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._replace(self._read(), fieldnames)

    def _go_on(self) -> None:
        if not self._fs.isfile(self.metrics_file_path):
            return
        rows = self._read()
        kept = [row for row in rows if float(row["step"]) <= self._first]
        if len(kept) < len(rows):
            rank_zero_info(
                f"{self.metrics_file_path}: {len(rows) - len(kept)} rows of an earlier run after "
                f"step {self._first}, where this run goes on, give way"
            )
        self._keep(kept)
        self._num_earlier = len(kept)

    def _give_way(self, names: set[str]) -> None:
        rows = self._read()
        earlier, own = rows[: self._num_earlier], rows[self._num_earlier :]
        kept = [
            row
            for row in earlier
            if float(row["step"]) < self._first or not any(row.get(name) for name in names)
        ]
        if len(kept) < len(earlier):
            self._keep(kept + own)
            self._num_earlier = len(kept)

    def _keep(self, rows: list[_Row]) -> None:
        if rows:
            self.metrics_keys = list(rows[0])
            self._replace(rows, self.metrics_keys)
        else:
            self.metrics_keys = []
            self._fs.rm_file(self.metrics_file_path)

    def _read(self) -> list[_Row]:
        rows = []
        with self._fs.open(self.metrics_file_path, "r", newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                try:
                    float(row["step"])
                except (KeyError, TypeError, ValueError) as error:
                    raise UserError(
                        f"{self.metrics_file_path}:{reader.line_num}: step must be a number, "
                        f"got {row.get('step')!r}; move the file away to begin anew"
                    ) from error
                rows.append(row)
        return rows

    def _replace(self, rows: list[_Row], columns: list[str]) -> None:
        # A run killed in the middle leaves the old file.
        part = f"{self.metrics_file_path}.part"
        with self._fs.open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=columns)
            writer.writeheader()
            writer.writerows(rows)
        self._fs.mv(part, self.metrics_file_path)
