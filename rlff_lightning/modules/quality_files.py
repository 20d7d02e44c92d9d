"""Response quality as files and as a table."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlff_lightning.agents.reply_judge import DIMENSIONS
from rlff_lightning.data.replies import Example
from rlff_lightning.modules.quality_judging import Judged
from rlff_lightning.types import Message

_FIGURES = {
    "bleu_2": "BLEU-2",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR",
    "meteor_no_synonyms": "METEOR*",
    "bert_score": "BERTScore",
    "strategy_accuracy": "strategy",
    "distinct_1": "dist-1",
    "distinct_2": "dist-2",
    "repetition": "repeated",
}
"""Figures that the table shows in percent, in this order."""


def write_replies(
    examples: Sequence[Example],
    replies: Mapping[str, Sequence[Message]],
    judged: Judged | None,
    folder: Path,
    rank: int,
) -> None:
    """Write all replies of one rank as JSON lines, one context each."""
    path = folder / "replies" / f"{rank}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for place, (context, _) in enumerate(examples):
            row: dict[str, Any] = {
                "id": context.id,
                "problem": context.problem,
                "situation": context.situation,
                "messages": [_said(message) for message in context.messages],
                "replies": {name: _said(said[place]) for name, said in replies.items()},
            }
            if judged is not None:
                row |= _judged(judged, place)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _judged(judged: Judged, place: int) -> dict[str, Any]:
    return {
        "ratings": {name: dict(ratings[place]) for name, ratings in judged.ratings.items()},
        "comparisons": [
            {
                "first": compared.first,
                "second": compared.second,
                "straight": compared.straight[place],
                "swapped": compared.swapped[place],
            }
            for compared in judged.comparisons
        ],
    }


def _said(message: Message) -> dict[str, str]:
    parts = {
        "reasoning": message.reasoning,
        "strategy": message.strategy,
        "failure": message.failure,
    }
    said = {"role": message.role, "content": message.text}
    return said | {name: part for name, part in parts.items() if part}


def write_quality(summary: Mapping[str, Any], folder: Path) -> None:
    """Write ``summary.json``; a figure or a bound that is not defined is null."""
    rows = {name: _finite(figures) for name, figures in summary["supporters"].items()}
    content = {**summary, "supporters": rows}
    if "comparisons" in summary:
        content["comparisons"] = [_finite(row) for row in summary["comparisons"]]
    text = json.dumps(content, indent=1, ensure_ascii=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in figures.items()
    }


def print_quality(summary: Mapping[str, Any], folder: Path) -> None:
    """Print the figures as a table, the strategies, the notes and the files."""
    # Names may hold brackets, which are not markup.
    console = Console(markup=False, highlight=False)
    rows: Mapping[str, Mapping[str, float]] = summary["supporters"]
    shown = [key for key in _FIGURES if any(key in row for row in rows.values())]
    table = _table(
        f"One reply to each of {summary['contexts']} contexts in {summary['dialogues']} "
        "held-out dialogues, in percent (95 % below)",
        rows,
    )
    for key in shown:
        cells = (_between(row, key, ".1f", 100) if key in row else "-" for row in rows.values())
        table.add_row(_FIGURES[key], *cells)
    table.add_row("words", *(_between(row, "words", ".1f") for row in rows.values()))
    console.print(table)
    if "meteor_no_synonyms" in shown:
        console.print("METEOR* matches words and stems; it does without synonyms.")
    if "judge" in summary:
        _print_judged(console, summary)
    for name, row in rows.items():
        shares = _shares(row)
        if shares:
            console.print(f"{name} follows: {', '.join(shares[:4])}", soft_wrap=True)
    for note in summary["notes"]:
        console.print(f"- {note}")
    console.print(f"replies to read: {folder / 'replies'}", soft_wrap=True)


def _table(title: str, columns: Iterable[str]) -> Table:
    # Light lines, and figures below each other: supporters are few, and 80 columns must do.
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(Text(name), justify="right", overflow="fold")
    return table


def _print_judged(console: Console, summary: Mapping[str, Any]) -> None:
    rows: Mapping[str, Mapping[str, float]] = summary["supporters"]
    table = _table("As judged, 1 to 5 (95 % below)", rows)
    for name in DIMENSIONS:
        table.add_row(name, *(_between(row, f"judged/{name}", ".2f") for row in rows.values()))
    table.add_row("unparsed", *(f"{row['judged/unparsed']:.1%}" for row in rows.values()))
    console.print(table)
    if summary["comparisons"]:
        names = ("win rate", "wins", "ties", "torn", "losses", "unparsed")
        table = _table("Two by two, every pair in both orders (95 % below)", names)
        for row in summary["comparisons"]:
            counts = (str(row[key]) for key in names[1:])
            title = Text(f"{row['first']} against {row['second']}")
            table.add_row(title, _between(row, "win_rate", ".3f"), *counts)
        console.print(table)
        console.print("A win is said in both orders; of the ties, the torn ones follow the place.")
    judge = summary["judge"]
    console.print(f"judged by {judge['name']} #{judge['hash']}", soft_wrap=True)


def _between(row: Mapping[str, float], key: str, form: str, scale: float = 1) -> str:
    names = (key, f"{key}_low", f"{key}_high")
    value, low, high = (scale * row.get(name, math.nan) for name in names)
    if not math.isfinite(value):
        return "-"
    ends = f"\n{low:{form}} to {high:{form}}" if math.isfinite(high - low) else ""
    return f"{value:{form}}{ends}"


def _shares(row: Mapping[str, float]) -> list[str]:
    found = {
        key.removeprefix("strategy_share/"): value
        for key, value in row.items()
        if key.startswith("strategy_share/") and value > 0
    }
    return [f"{name} {found[name]:.0%}" for name in sorted(found, key=found.__getitem__)[::-1]]
