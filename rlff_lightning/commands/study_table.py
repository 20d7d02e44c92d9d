"""A study's result as Markdown, CSV and JSON, and as a table for a terminal."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlff_lightning.commands.markers import write_json
from rlff_lightning.commands.study_cell import Cell
from rlff_lightning.commands.study_csv import csv_text
from rlff_lightning.commands.study_figures import Row
from rlff_lightning.commands.study_file import Study
from rlff_lightning.commands.study_held_out import (
    AGREED_TITLES,
    AGREEMENT,
    RATES,
    agreements,
    held_out_names,
    held_out_rates,
)
from rlff_lightning.commands.study_mixed import mixed_notes


def write_tables(folder: Path, study: Study, cells: Sequence[Cell], rows: Sequence[Row]) -> None:
    """Write `table.md`, `table.csv` and `study.json`, each whole or not at all."""
    _write(folder / "table.md", markdown(study, cells, rows))
    _write(folder / "table.csv", csv_text(cells))
    arms = {arm.name: list(arm.changes) for arm in study.arms}
    content: dict[str, Any] = {
        "study": study.name,
        "judge": cells[0].terms["judge"],
        "second_judge": cells[0].terms["second judge"],
        "baseline": study.baseline,
        "policy": study.policy,
        "arms": arms,
        "rows": [asdict(row) for row in rows],
        "cells": [
            {
                "arm": cell.arm,
                "seed": cell.seed,
                "figures": dict(cell.figures),
                "references": {name: dict(row) for name, row in cell.references.items()},
                "wall_s": cell.wall_s,
            }
            for cell in cells
        ],
    }
    write_json(folder / "study.json", content)


def print_study(study: Study, cells: Sequence[Cell], rows: Sequence[Row]) -> None:
    """Print the table: ends of intervals and seeds below each other, for 80 columns must do."""
    # Names may hold brackets, which are not markup.
    console = Console(markup=False, highlight=False)
    # A single seed has no interval and no test over seeds.
    has_tests = any(row.rate_interval for row in rows)
    over_seeds = ("p,\nseeds", "p,\nHolm") if has_tests else ()
    names = ("success\nrate", "seeds", "turns", "less\nbaseline", *over_seeds, "p,\nepisodes")
    table = _terminal_table(study.name, names)
    for row in rows:
        is_baseline = row.name == study.baseline
        p_values = [_p(row.p_seeds), _p(row.p_holm)] if has_tests else []
        table.add_row(
            Text(row.name),
            _stacked(row.rate, row.rate_interval),
            "\n".join(f"{rate:.3f}" for rate in row.rates),
            _turns(row),
            "baseline" if is_baseline else _stacked(row.difference, row.difference_interval),
            *p_values,
            _p(row.p_episodes),
        )
    console.print(table)
    if held_out := held_out_names(rows):
        table = _terminal_table(RATES, held_out)
        for row in rows:
            table.add_row(Text(row.name), *held_out_rates(row, held_out, _stacked))
        console.print(table)
    if found := agreements(rows, _stacked):
        table = _terminal_table(AGREEMENT, ("people", *AGREED_TITLES))
        for arm, people, agreed in found:
            table.add_row(Text(arm), Text(people), *agreed)
        console.print(table)
    for note in _notes(study, cells):
        console.print(note.replace("`", "").replace("**", ""), soft_wrap=True)


def _terminal_table(title: str, names: Sequence[str]) -> Table:
    table = Table(title=Text(title), box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold")
    for name in names:
        table.add_column(Text(name), justify="right", overflow="fold", no_wrap="\n" in name)
    return table


def _stacked(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return ""
    ends = f"\n{interval[0]:.3f} to\n{interval[1]:.3f}" if interval else ""
    return f"{value:.3f}{ends}"


def _turns(row: Row) -> str:
    # Both ends would be a letter too wide.
    reach = f"\n\u00b1{row.turns_interval[1] - row.turns:.2f}" if row.turns_interval else ""
    return f"{row.turns:.2f}{reach}"


def markdown(study: Study, cells: Sequence[Cell], rows: Sequence[Row]) -> str:
    """Word the table: a row per reference and arm, then how to read it."""
    head = (
        "| arm | success rate, mean (95 %) | of each seed | average turns (95 %) "
        "| less the baseline's (95 %) | p, seeds | p, Holm | p, episodes |"
    )
    lines = [f"# {study.name}", "", head, "|---" * 8 + "|"]
    for row in rows:
        is_baseline = row.name == study.baseline
        compared = "baseline" if is_baseline else _mean(row.difference, row.difference_interval)
        cells_of_row = [
            f"`{row.name}`",
            _mean(row.rate, row.rate_interval),
            " ".join(f"{rate:.3f}" for rate in row.rates),
            _mean(row.turns, row.turns_interval, 2),
            compared,
            _p(row.p_seeds),
            _p(row.p_holm),
            _p(row.p_episodes),
        ]
        lines.append(f"| {' | '.join(cells_of_row)} |")
    lines += _held_out(rows)
    lines += ["", *_notes(study, cells), ""]
    return "\n".join(lines)


def _notes(study: Study, cells: Sequence[Cell]) -> list[str]:
    missing = len(study.arms) * len(study.seeds) - len(cells)
    second = cells[0].terms["second judge"]
    return [
        f"Judged by {cells[0].terms['judge']}"
        + (f"; second judge {second}" if second else "")
        + f". Policy `{study.policy}`, seeds "
        f"{', '.join(map(str, study.seeds))}"
        + (f"; **{missing} runs are missing**." if missing else "."),
        "Intervals and `p, seeds` are Student's t over seeds, paired with the baseline's; Holm's "
        "correction is for the number of arms. `p, episodes` is McNemar's exact test over the "
        "same people: it asks about these very policies, not about new training runs.",
        *mixed_notes(study, cells),
    ]


def _held_out(rows: Sequence[Row]) -> list[str]:
    lines: list[str] = []
    if names := held_out_names(rows):
        lines += ["", f"{RATES}:", "", f"| arm | {' | '.join(names)} |"]
        lines.append("|---" * (1 + len(names)) + "|")
        for row in rows:
            lines.append(f"| `{row.name}` | {' | '.join(held_out_rates(row, names, _mean))} |")
    if found := agreements(rows, _mean):
        lines += ["", f"{AGREEMENT}:", "", f"| arm | people | {' | '.join(AGREED_TITLES)} |"]
        lines.append("|---" * (2 + len(AGREED_TITLES)) + "|")
        lines += [f"| `{arm}` | {people} | {' | '.join(cells)} |" for arm, people, cells in found]
    return lines


def _mean(value: float | None, interval: tuple[float, float] | None, digits: int = 3) -> str:
    if value is None:
        return ""
    ends = f" ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})" if interval else ""
    return f"{value:.{digits}f}{ends}"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< .001" if value < 0.001 else f"{value:.3f}"


def _write(file: Path, text: str) -> None:
    part = file.with_name(f".{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
