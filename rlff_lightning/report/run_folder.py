"""What stages wrote, found by its files: a pipeline's run, one stage's folder, or a study."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlff_lightning.errors import UserError

Curve = list[tuple[int, float]]
"""Optimizer step and value, in order."""

_MARKERS = (
    "metrics.csv",
    "summary.json",
    "quality.json",
    "episodes",
    "futures",
    "completions",
    "replies",
)
"""Files and folders that make a folder a stage's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFolder:
    """What one stage wrote; anything may be missing."""

    name: str
    """The folder's name."""
    folder: Path
    """Where it is."""
    arm: str = ""
    """The study's arm that it belongs to; empty outside studies."""

    @property
    def summary(self) -> dict[str, Any]:
        """``summary.json``; empty if there is none."""
        return read_object(self.folder / "summary.json")

    @property
    def reward_quality(self) -> dict[str, Any]:
        """``quality.json`` of a reward model's test; empty if there is none."""
        return read_object(self.folder / "quality.json")

    def curves(self) -> dict[str, Curve]:
        """Read ``metrics.csv``: every key with its values by step.

        Raises:
            UserError: If a cell is no number, or the file is no table.
        """
        file = self.folder / "metrics.csv"
        curves: dict[str, Curve] = {}
        for number, row in enumerate(_rows(file), start=2):
            for key, cell in row.items():
                if key in {"step", "epoch"} or not cell or not isinstance(cell, str):
                    continue
                try:
                    point = (int(float(row["step"])), float(cell))
                except (KeyError, TypeError, ValueError, OverflowError) as error:
                    raise UserError(
                        f"{file}:{number}: {key} must be a number beside a step, got {cell!r}"
                    ) from error
                if math.isfinite(point[1]):
                    curves.setdefault(str(key), []).append(point)
        return curves


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """A run."""

    folder: Path
    """Where it is."""
    stages: tuple[StageFolder, ...]
    """Its stages in the order in which they were begun."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def study(self) -> dict[str, Any]:
        """``study.json``; empty if the folder is no study's."""
        return read_object(self.folder / "study.json")

    @property
    def first_cells(self) -> list[dict[str, Any]]:
        """A study's cells of its first seed, one an arm; none outside studies."""
        cells = self.study.get("cells") or []
        return [cell for cell in cells if cell["seed"] == cells[0]["seed"]]

    @property
    def wall_s(self) -> float | None:
        """Seconds that all stages took; none if the run does not say."""
        seconds = read_object(self.folder / "summary.json").get("wall_s")
        return float(seconds) if isinstance(seconds, int | float) else None


def find_run(folder: Path) -> RunFolder:
    """Find the stages of a run.

    Args:
        folder: A pipeline's run, the folder of one stage, or a study: of that the stages of every
            arm under the first seed, those that arms share once.

    Raises:
        UserError: If the folder is missing or no stage wrote into it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: a run must be a folder, found none")
    if cells := RunFolder(folder=folder, stages=()).first_cells:
        return RunFolder(folder=folder, stages=tuple(_studied(folder, cells)))
    children = sorted(child for child in folder.iterdir() if child.is_dir())
    found = [child for child in children if _is_stage(child)]
    # A pipeline's run holds stages and a summary of its own; one stage's folder holds no stages.
    folders = sorted(found, key=_begun) or [folder] * _is_stage(folder)
    if not folders:
        raise UserError(
            f"{folder}: no stage wrote anything here that a report shows; expected one of "
            f"{', '.join(_MARKERS)} in it or in a folder below it"
        )
    stages = tuple(StageFolder(name=each.resolve().name, folder=each) for each in folders)
    return RunFolder(folder=folder, stages=stages)


def _studied(folder: Path, cells: Sequence[Mapping[str, Any]]) -> Iterator[StageFolder]:
    seen: set[str] = set()
    for cell in cells:
        arm = str(cell["arm"])
        for stage in find_run(folder / arm / f"seed-{cell['seed']}").stages:
            name = str(read_object(stage.folder / "done.json").get("fingerprint", stage.folder))
            if name not in seen:
                seen.add(name)
                yield StageFolder(name=f"{arm}: {stage.name}", folder=stage.folder, arm=arm)


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object; a missing file is an empty one.

    Raises:
        UserError: If the file holds something else.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"{file}{line}: no JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: must be a JSON object, got {type(content).__name__}")
    return content


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Read a file of JSON objects, one a line.

    Raises:
        UserError: If a line is something else.
    """
    # As bytes: what is no text is told with its line.
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{file}:{number}: no JSON: {error}") from error
            if not isinstance(row, dict):
                raise UserError(f"{file}:{number}: must be a JSON object")
            yield row


def _rows(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: no table of comma-separated values: {error}") from error


def _is_stage(folder: Path) -> bool:
    return any((folder / name).exists() for name in _MARKERS)


def _begun(folder: Path) -> tuple[str, str]:
    done = read_object(folder / "done.json")
    return str(done.get("started", "~")), folder.name
