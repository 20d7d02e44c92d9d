"""PPDPP's JSON lines, and DPDP's with critic answers on every seeker message."""

from rlff_lightning.dialogue.source import Record
from rlff_lightning.errors import UserError
from rlff_lightning.types import Dialogue, Message, Role

NAME = "PPDPP"

_ROLES: dict[str, Role] = {"usr": "seeker", "sys": "supporter"}


def recognises(record: Record) -> bool:
    """Tell PPDPP by a ``dialog`` whose messages have a ``text``."""
    dialog = record.values.get("dialog")
    return dialog == [] or "text" in record.first_message("dialog")


def read(record: Record, identity: str) -> Dialogue:
    """Read one conversation; ``state`` lists become the message's critic answers."""
    return Dialogue(
        id=identity,
        messages=tuple(_message(entry) for entry in record.messages("dialog")),
        situation=record.text("situation", "").strip(),
        problem=record.text("problem_type", "").strip(),
        emotion=record.text("emotion_type", "").strip(),
    )


def _message(entry: Record) -> Message:
    speaker = entry.text("speaker")
    if speaker not in _ROLES:
        raise UserError(
            f"{entry.where}: speaker must be one of {', '.join(_ROLES)}, got {speaker!r}"
        )
    return Message(
        role=_ROLES[speaker],
        text=entry.text("text"),
        strategy=entry.text("strategy", ""),
        critic_answers=entry.texts("state"),
    )
