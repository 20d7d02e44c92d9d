"""Sampled replies as files and as a table."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from rlff_lightning.errors import UserError
from rlff_lightning.rollout.scorers import Sampled


class Scored(NamedTuple):
    """Replies of one supporter, one per context."""

    samples: list[Sampled]
    """N replies."""
    terms: dict[str, Tensor]
    """Terms of the reward by name, unweighted, ``(N,)`` each."""


def read_quality(path: str | None) -> dict[str, Any]:
    """Read what a reward model's test wrote; nothing without a path.

    Raises:
        UserError: If the file is missing or no JSON.
    """
    if path is None:
        return {}
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"SamplesModule.reward_quality must be what `rlff test` of a reward model wrote, got "
            f"{path}: {error}"
        ) from error
    return content


def write_samples(
    columns: Mapping[str, Scored], summary: Mapping[str, Any], folder: Path, *, num_shown: int
) -> None:
    """Write ``summary.json``, ``samples.jsonl`` with all replies and ``samples.md`` with some."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    (folder / "summary.json").write_text(text, encoding="utf-8")
    count = int(summary["contexts"])
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:
        for place in range(count):
            file.write(json.dumps(_row(columns, place), ensure_ascii=False) + "\n")
    lines = ["# Replies to held-out contexts", ""]
    lines += [line for note in summary["notes"] for line in (f"- {note}", "")]
    for place in range(0, count, max(count // max(num_shown, 1), 1)):
        lines += _shown(columns, place)
    (folder / "samples.md").write_text("\n".join(lines), encoding="utf-8")


def _row(columns: Mapping[str, Scored], place: int) -> dict[str, Any]:
    context = next(iter(columns.values())).samples[place].context
    return {
        "id": context.id,
        "messages": [{"role": m.role, "content": m.text} for m in context.messages],
        "replies": {
            name: {
                "reasoning": column.samples[place].reply.reasoning,
                "content": column.samples[place].reply.text,
                "is_finished": column.samples[place].is_finished,
                "rewards": {term: values[place].item() for term, values in column.terms.items()},
            }
            for name, column in columns.items()
        },
    }


def _shown(columns: Mapping[str, Scored], place: int) -> list[str]:
    context = next(iter(columns.values())).samples[place].context
    lines = [f"## {context.id}", ""]
    for message in context.messages:
        lines += [f"> **{message.role}**: {_one_line(message.text)}", ">"]
    lines[-1] = ""
    for name, column in columns.items():
        reply = column.samples[place].reply
        rewards = ", ".join(f"{term} {values[place]:.3f}" for term, values in column.terms.items())
        thought = f"*({_one_line(reply.reasoning)})* " if reply.reasoning else ""
        lines += [f"- **{name}** [{rewards}]: {thought}{_one_line(reply.text)}"]
    return [*lines, ""]


def print_samples(summary: Mapping[str, Any], folder: Path) -> None:
    """Print the first term's figures as a table, the differences, the notes and the files."""
    # Replies may hold brackets, which are not markup.
    console = Console(markup=False, highlight=False)
    rows = summary["supporters"]
    term = next(iter(next(iter(rows.values()))["rewards"]))
    table = Table(title=f"One reply to each of {summary['contexts']} held-out contexts")
    table.add_column("reward:", no_wrap=True)
    for column in (term, "95 %", "well-formed", "distinct-2", "words"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in rows.items():
        table.add_row(
            Text(name),
            f"{row['rewards'][term]['mean']:.3f}",
            _interval(row["rewards"][term]),
            f"{row['well_formed']:.0%}",
            f"{row['distinct_2']:.2f}",
            f"{row['mean_words']:.1f}",
        )
    console.print(table)
    for name, row in rows.items():
        shares = [f"{_short(text)} {share:.0%}" for text, share in row["reasoning"].items()]
        console.print(f"{name} reasons: {', '.join(shares[:4])}", soft_wrap=True)
    for name, parts in summary["differences"].items():
        figure = parts[term]
        console.print(f"{name}: {figure['mean']:+.4f} ({_interval(figure)})", soft_wrap=True)
    console.print("(intervals by dialogue)")
    for note in summary["notes"]:
        console.print(f"- {note}")
    console.print(f"replies to read: {folder / 'samples.md'}", soft_wrap=True)


def _interval(figure: Mapping[str, Any]) -> str:
    if figure["ci95"] is None:
        return "-"
    low, high = figure["ci95"]
    return f"{low:.3f} … {high:.3f}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _short(text: str, width: int = 22) -> str:
    line = _one_line(text)
    return line if len(line) <= width else line[: width - 1] + "…"
