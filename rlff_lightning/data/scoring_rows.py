"""Rows of (context, reply) to be scored: JSON lines or Parquet, read whole before any is scored."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from typing_extensions import override

from rlff_lightning.data.ranges import check_ranges
from rlff_lightning.data.records import record_loader
from rlff_lightning.dialogue import chat_messages
from rlff_lightning.dialogue.reply_format import parse_reply
from rlff_lightning.dialogue.source import Record, load_records
from rlff_lightning.errors import UserError
from rlff_lightning.types import Conversation, Message


@dataclass(frozen=True, kw_only=True, slots=True)
class RowToScore:
    """A reply in its context."""

    number: int
    """Place in the file, from 0."""
    id: str
    """The row's own ``id``, or its place as text."""
    context: Conversation
    """Ends with a seeker's message; its id says where the row stands."""
    reply: Message
    """The reply."""


class RowsToScore(LightningDataModule):
    """A file of replies in their contexts.

    A row is an object with ``context``, a list of messages (``role`` user or assistant, and
    ``content``) or the same as JSON text, and ``reply``, a text; or with ``messages`` of which the
    last one is the reply. ``id`` and ``situation`` may stand beside them. So futures that a
    simulation wrote can be scored as they are.

    Args:
        file: ``.parquet``, or JSON lines, or a JSON list.
        batch_size: Rows per batch and process.
        has_reasoning: Replies are a policy's whole output: its reasoning in ``<think>`` is no part
            of what is scored.
    """

    def __init__(self, file: str, batch_size: int = 64, has_reasoning: bool = False) -> None:
        super().__init__()
        check_ranges("RowsToScore", batch_size=batch_size)
        self.file = Path(file)
        self.batch_size = batch_size
        self.has_reasoning = has_reasoning
        self._rows: list[RowToScore] = []
        self._left_out: Collection[int] = ()

    @override
    def setup(self, stage: str) -> None:
        if not self._rows:
            self._rows = read_rows(self.file, has_reasoning=self.has_reasoning)

    @property
    def num_rows(self) -> int:
        """Rows of the file."""
        return len(self._rows)

    def leave_out(self, numbers: Collection[int]) -> None:
        """Give all rows but these, which an earlier run has scored."""
        self._left_out = frozenset(numbers)

    @override
    def predict_dataloader(self) -> DataLoader[RowToScore]:
        rest = [row for row in self._rows if row.number not in self._left_out]
        return record_loader(rest, self.batch_size)


def read_rows(file: Path, *, has_reasoning: bool = False) -> list[RowToScore]:
    """Read every row, or complain about the first bad one.

    Args:
        file: ``.parquet``, or JSON.
        has_reasoning: Replies are a policy's whole output.

    Raises:
        UserError: If the file cannot be read, or a row is not as ``RowsToScore`` has it.
    """
    records = _parquet_records(file) if file.suffix == ".parquet" else load_records(file)
    return [_row(record, number, has_reasoning) for number, record in enumerate(records)]


def _parquet_records(file: Path) -> Sequence[Record]:
    try:
        rows = pq.read_table(file).to_pylist()
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{file}: no Parquet file that can be read: {reason}") from error
    if not rows:
        raise UserError(f"{file}: must hold at least one row, got none")
    return [Record(f"{file}: row {number}", row) for number, row in enumerate(rows, start=1)]


def _row(record: Record, number: int, has_reasoning: bool) -> RowToScore:
    if "context" in record.values:
        messages, text = _messages(record, "context"), record.text("reply")
    else:
        said = _messages(record, "messages")
        if not said or said[-1].role != "supporter":
            raise record.mistake("messages", "a list that ends with an assistant's reply")
        messages, text = said[:-1], said[-1].text
    if not messages or messages[-1].role != "seeker":
        raise UserError(f"{record.where}: a reply must follow a user's message")
    given = record.values.get("id")
    return RowToScore(
        number=number,
        id=str(number) if given is None else str(given),
        context=Conversation(
            id=record.where,
            messages=messages,
            situation=record.text("situation", ""),
        ),
        reply=parse_reply(text) if has_reasoning else Message(role="supporter", text=text),
    )


def _messages(record: Record, key: str) -> tuple[Message, ...]:
    listed = record.values.get(key)
    if isinstance(listed, str):
        try:
            listed = json.loads(listed)
        except json.JSONDecodeError:
            raise record.mistake(key, "a list of messages, or one as JSON text") from None
    given = {} if listed is None else {key: listed}
    named = Record(record.where, given).messages(key)
    # What a simulation wrote calls a message's words by our own name.
    entries = [
        {**entry.values, "content": entry.values.get("content", entry.values.get("text"))}
        for entry in named
    ]
    return chat_messages.read(Record(record.where, {"messages": entries}), "").messages
