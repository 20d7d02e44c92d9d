"""Labelled replies on disk: Parquet parts that appear whole or not at all."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlff_lightning.errors import UserError
from rlff_lightning.types import Conversation, Future, LabelledReply, Message

SCHEMA = pa.schema(
    [
        ("context_id", pa.string()),
        ("source", pa.string()),
        ("problem", pa.string()),
        ("situation", pa.string()),
        ("persona", pa.string()),
        ("turn", pa.int32()),
        ("context", pa.string()),
        ("hidden", pa.list_(pa.int32())),
        ("seed", pa.int64()),
        ("reply", pa.string()),
        ("reasoning", pa.string()),
        ("strategy", pa.string()),
        ("origin", pa.string()),
        ("value", pa.float64()),
        ("standard_error", pa.float64()),
        ("num_futures", pa.int32()),
        ("futures", pa.string()),
    ]
)
"""Columns; ``context`` and ``futures`` are JSON, ``turn`` counts earlier supporter messages."""


def write_part(rows: Sequence[LabelledReply], path: Path) -> None:
    """Write one Parquet file; a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist([_row(row) for row in rows], SCHEMA), partial)
    partial.replace(path)


def read_parts(folder: Path) -> list[LabelledReply]:
    """Read all parts of a folder, in the order of their names.

    Raises:
        UserError: If the folder has no parts, or a part is damaged or lacks a column.
    """
    parts = sorted(folder.glob("*.parquet"))
    if not parts:
        raise UserError(f"{folder} must hold labelled replies (*.parquet), found none")
    return [record for part in parts for record in _read(part)]


def _read(part: Path) -> Iterable[LabelledReply]:
    try:
        table = pq.read_table(part)
    except pa.ArrowInvalid as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{part}: no Parquet file that can be read: {reason}") from error
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise UserError(f"{part} must have the column {missing[0]!r}; it has {table.column_names}")
    return [_record(row) for row in table.to_pylist()]


def _row(record: LabelledReply) -> dict[str, Any]:
    context = record.context
    return {
        "context_id": context.id,
        "source": context.source,
        "problem": context.problem,
        "situation": context.situation,
        "persona": context.persona,
        "turn": context.num_turns,
        "context": json.dumps([asdict(message) for message in context.messages]),
        "hidden": list(context.hidden),
        "seed": context.seed,
        "reply": record.reply.text,
        "reasoning": record.reply.reasoning,
        "strategy": record.reply.strategy,
        "origin": record.origin,
        "value": record.value,
        "standard_error": record.standard_error,
        "num_futures": len(record.futures),
        "futures": json.dumps([asdict(future) for future in record.futures]),
    }


def _record(row: dict[str, Any]) -> LabelledReply:
    context = Conversation(
        id=row["context_id"],
        source=row["source"],
        problem=row["problem"],
        situation=row["situation"],
        persona=row["persona"],
        messages=_messages(json.loads(row["context"])),
        hidden=tuple(row["hidden"]),
        seed=row["seed"],
    )
    futures = tuple(
        Future(
            values=tuple(future["values"]),
            is_success=future["is_success"],
            messages=_messages(future["messages"]),
        )
        for future in json.loads(row["futures"])
    )
    return LabelledReply(
        context=context,
        reply=Message(
            role="supporter",
            text=row["reply"],
            reasoning=row["reasoning"],
            strategy=row["strategy"],
        ),
        value=row["value"],
        standard_error=row["standard_error"],
        futures=futures,
        origin=row["origin"],
    )


def _messages(rows: Iterable[dict[str, Any]]) -> tuple[Message, ...]:
    return tuple(Message(**{**row, "critic_answers": tuple(row["critic_answers"])}) for row in rows)
