"""A study's runs as CSV: a line per arm and seed, and per reference and seed."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rlff_lightning.commands.study_cell import Cell


def csv_text(cells: Sequence[Cell]) -> str:
    """Write every run's figures with their judges; references, which arms share, once per seed."""
    rows: list[tuple[str, Cell, Mapping[str, Any], float | None]] = [
        (cell.arm, cell, cell.figures, cell.wall_s) for cell in cells
    ]
    first = {cell.seed: cell for cell in reversed(cells)}
    rows += [
        (name, first[seed], first[seed].references[name], None)
        for name in cells[0].references
        for seed in sorted(first)
    ]
    names = dict.fromkeys(
        key
        for _, _, figures, _ in rows
        for key, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    )
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["arm", "seed", *names, "ci95_low", "ci95_high", "wall_s", "judge", "judge_2"])
    for name, cell, figures, wall_s in rows:
        numbers = [figures.get(key) for key in names]
        judges = [cell.terms["judge"], cell.terms["second judge"]]
        ends = figures.get("ci95") or (None, None)
        table.writerow([name, cell.seed, *numbers, *ends, wall_s, *judges])
    return stream.getvalue()
