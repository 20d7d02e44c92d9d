"""Response quality as files and as a table."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlff_lightning.data.replies import Example
from rlff_lightning.types import Message

_COLUMNS = {
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
    folder: Path,
    rank: int,
) -> None:
    """Write all replies of one rank as JSON lines, one context each."""
    path = folder / "replies" / f"{rank}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for place, (context, _) in enumerate(examples):
            row = {
                "id": context.id,
                "problem": context.problem,
                "situation": context.situation,
                "messages": [_said(message) for message in context.messages],
                "replies": {name: _said(said[place]) for name, said in replies.items()},
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


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
    rows = {
        name: {key: value if math.isfinite(value) else None for key, value in figures.items()}
        for name, figures in summary["supporters"].items()
    }
    text = json.dumps({**summary, "supporters": rows}, indent=1, ensure_ascii=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")


def print_quality(summary: Mapping[str, Any], folder: Path) -> None:
    """Print the figures as a table, the strategies, the notes and the files."""
    # Names may hold brackets, which are not markup.
    console = Console(markup=False, highlight=False)
    rows: Mapping[str, Mapping[str, float]] = summary["supporters"]
    table = Table(
        title=f"One reply to each of {summary['contexts']} contexts in {summary['dialogues']} "
        "held-out dialogues, in percent"
    )
    table.add_column("supporter", no_wrap=True)
    shown = [key for key in _COLUMNS if any(key in row for row in rows.values())]
    for key in shown:
        table.add_column(_COLUMNS[key], justify="right")
    table.add_column("words", justify="right")
    for name, row in rows.items():
        cells = [f"{100 * row[key]:.1f}" if key in row else "-" for key in shown]
        table.add_row(Text(name), *cells, f"{row['words']:.1f}")
    console.print(table)
    if "meteor_no_synonyms" in shown:
        console.print("METEOR* matches words and stems; it does without synonyms.")
    for name, row in rows.items():
        shares = _shares(row)
        if shares:
            console.print(f"{name} follows: {', '.join(shares[:4])}", soft_wrap=True)
    for note in summary["notes"]:
        console.print(f"- {note}")
    console.print(f"replies to read: {folder / 'replies'}", soft_wrap=True)


def _shares(row: Mapping[str, float]) -> list[str]:
    found = {
        key.removeprefix("strategy_share/"): value
        for key, value in row.items()
        if key.startswith("strategy_share/") and value > 0
    }
    return [f"{name} {found[name]:.0%}" for name in sorted(found, key=found.__getitem__)[::-1]]
