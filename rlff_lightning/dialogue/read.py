"""One call reads dialogues or role cards of any known shape, told by what the file holds."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rlff_lightning.dialogue import chat_messages, esc_eval, esconv, extes, ppdpp
from rlff_lightning.dialogue.source import Record, files_of, load_records
from rlff_lightning.errors import UserError
from rlff_lightning.types import Dialogue, Message, RoleCard

_log = logging.getLogger(__name__)


class _Shape(NamedTuple):
    name: str
    recognises: Callable[[Record], bool]
    read: Callable[[Record, str], Dialogue]


_SHAPES = (
    _Shape(chat_messages.NAME, chat_messages.recognises, chat_messages.read),
    _Shape(esconv.NAME, esconv.recognises, esconv.read),
    _Shape(ppdpp.NAME, ppdpp.recognises, ppdpp.read),
    _Shape(extes.NAME, extes.recognises, extes.read),
)
KNOWN_SHAPES = (*(shape.name for shape in _SHAPES), esc_eval.NAME)
"""Names of the shapes that a reader knows."""


def read_dialogues(paths: str | Path | Sequence[str | Path]) -> list[Dialogue]:
    """Read dialogues of any known shape.

    Ids are ``<file name without ending>-<number>``, counted from 1 in file order, unless the
    record names its own. Texts are stripped; empty messages are dropped, and a warning is logged
    for every file that has some, with their number.

    Args:
        paths: A file, several, or a folder of .json and .jsonl files.

    Returns:
        The dialogues in file order; each has a seeker's message.

    Raises:
        UserError: If a file is missing, empty, no JSON or of no known shape, a speaker is unknown,
            a dialogue has no seeker message, or two have the same id.
    """
    found: dict[str, Dialogue] = {}
    for path in files_of(paths):
        num_dropped = 0
        for number, record in enumerate(load_records(path), start=1):
            draft = _shape_of(record).read(record, f"{path.stem}-{number}")
            dialogue = dataclasses.replace(draft, messages=_tidy(draft.messages))
            num_dropped += len(draft.messages) - len(dialogue.messages)
            if all(message.role != "seeker" for message in dialogue.messages):
                raise UserError(
                    f"{record.where}: a dialogue must have a seeker message, got none among "
                    f"{len(dialogue.messages)} messages"
                )
            if dialogue.id in found:
                raise UserError(f"{record.where}: id must be unique, got {dialogue.id!r} again")
            found[dialogue.id] = dialogue
        if num_dropped:
            _log.warning("%s: dropped %d empty messages", path, num_dropped)
    return list(found.values())


def read_role_cards(paths: str | Path | Sequence[str | Path]) -> list[RoleCard]:
    """Read role cards.

    Args:
        paths: A file, several, or a folder of .json and .jsonl files.

    Returns:
        The cards in file order.

    Raises:
        UserError: If a file is missing, empty, no JSON, or holds something else.
    """
    found: dict[str, RoleCard] = {}
    for path in files_of(paths):
        for number, record in enumerate(load_records(path), start=1):
            if not esc_eval.recognises(record):
                raise UserError(
                    f'{record.where}: a role card must have a text "base", got the keys '
                    f"{_keys(record)}"
                )
            card = esc_eval.read(record, f"{path.stem}-{number}")
            if card.id in found:
                raise UserError(f"{record.where}: id must be unique, got {card.id!r} again")
            found[card.id] = card
    return list(found.values())


def read_any(paths: str | Path | Sequence[str | Path]) -> list[Dialogue] | list[RoleCard]:
    """Read dialogues, or role cards if the first record is one."""
    first = load_records(files_of(paths)[0])[0]
    return read_role_cards(paths) if esc_eval.recognises(first) else read_dialogues(paths)


def _shape_of(record: Record) -> _Shape:
    for shape in _SHAPES:
        if shape.recognises(record):
            return shape
    if esc_eval.recognises(record):
        raise UserError(f"{record.where}: must be a dialogue, got a role card")
    raise UserError(
        f"{record.where}: shape must be one of {', '.join(KNOWN_SHAPES)}; got the keys "
        f"{_keys(record)}"
    )


def _keys(record: Record) -> str:
    return ", ".join(repr(key) for key in list(record.values)[:8]) or "of an empty object"


def _tidy(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    stripped = (dataclasses.replace(m, text=m.text.strip()) for m in messages)
    return tuple(message for message in stripped if message.text)
