"""Labelled replies on disk: Parquet parts that appear whole or not at all."""

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rlff_lightning.errors import UserError
from rlff_lightning.types import Conversation, Future, LabelledReply, Message

SCHEMA = pa.schema(
    [
        ("context_number", pa.int64()),
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
"""Columns; ``context`` and ``futures`` are JSON, ``turn`` counts earlier supporter messages.

``context_number`` is the context's place in the run, whatever was simulated first.
"""

_FINISHED = b"rlff_finished"
"""Key of a part's metadata: numbers of the contexts that it finishes, as JSON."""

_IDENTITY = b"rlff_identity"
"""Key of a part's metadata: the run's identity, as JSON."""


def write_part(
    rows: Sequence[LabelledReply],
    path: Path,
    numbers: Sequence[int] | None = None,
    finished: Sequence[int] = (),
    identity: Mapping[str, Any] | None = None,
) -> None:
    """Write one Parquet file; a reader sees all of it or nothing, whenever the process dies.

    Args:
        rows: Labelled replies.
        path: The part.
        numbers: Number of each row's context within the run; ``None`` leaves all 0.
        finished: Contexts that the part finishes; one without candidates has no rows.
        identity: Of the run, prompts and critic included; a part that is copied away still tells.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = [0] * len(rows) if numbers is None else numbers
    content = [
        {"context_number": number, **_row(row)} for number, row in zip(numbers, rows, strict=True)
    ]
    known = {_FINISHED: list(finished), _IDENTITY: dict(identity or {})}
    encoded = {key: json.dumps(value, ensure_ascii=False) for key, value in known.items()}
    schema = SCHEMA.with_metadata({key: text.encode() for key, text in encoded.items()})
    # The name begins with a dot: readers of whole folders leave it out.
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        pq.write_table(pa.Table.from_pylist(content, schema), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_parts(folder: Path, numbers: Collection[int] | None = None) -> list[LabelledReply]:
    """Read all parts of a folder, in the order of the contexts' numbers.

    Args:
        folder: Holds the parts.
        numbers: Only these contexts; ``None`` for all.

    Returns:
        The labelled replies.

    Raises:
        UserError: If the folder has no parts, or a part is damaged or lacks a column.
    """
    parts = sorted(folder.glob("*.parquet"))
    if not parts:
        raise UserError(f"{folder} must hold labelled replies (*.parquet), found none")
    numbered = [pair for part in parts for pair in _read(part, numbers)]
    return [record for _, record in sorted(numbered, key=itemgetter(0))]


def read_finished(part: Path) -> list[int]:
    """Read which contexts a part finishes, from its footer alone.

    Raises:
        UserError: If the part is damaged.
    """
    try:
        metadata = pq.read_metadata(part).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise _damaged(part, error) from error
    finished: list[int] = json.loads(metadata.get(_FINISHED, b"[]"))
    return finished


def read_identity(part: Path) -> dict[str, Any]:
    """Read whose a part is: the identity of the run that wrote it; empty if it does not say."""
    identity: dict[str, Any] = json.loads(
        (pq.read_metadata(part).metadata or {}).get(_IDENTITY, "{}")
    )
    return identity


def _damaged(part: Path, error: Exception) -> UserError:
    reason = str(error).split("\n")[0]
    return UserError(f"{part}: no Parquet file that can be read: {reason}")


def _read(part: Path, numbers: Collection[int] | None) -> list[tuple[int, LabelledReply]]:
    wanted = None if numbers is None else pc.field("context_number").isin(list(numbers))
    try:
        table = pq.read_table(part, filters=wanted)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(part, error) from error
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise UserError(f"{part} must have the column {missing[0]!r}; it has {table.column_names}")
    return [(row["context_number"], _record(row)) for row in table.to_pylist()]


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
            is_cut=future.get("is_cut", False),  # Older parts do not say.
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
