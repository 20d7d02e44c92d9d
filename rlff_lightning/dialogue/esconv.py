"""ESConv's official shape, with its failed conversations."""

from rlff_lightning.dialogue.source import Record
from rlff_lightning.errors import UserError
from rlff_lightning.types import Dialogue, Message, Role

NAME = "ESConv"

_ROLES: dict[str, Role] = {
    "seeker": "seeker",
    "supporter": "supporter",
    "speaker": "seeker",
    "listener": "supporter",
}
_FAILED_SPEAKERS = {"speaker", "listener"}


def recognises(record: Record) -> bool:
    """Tell ESConv by a ``dialog`` whose messages have a ``content``, or by its survey."""
    if not isinstance(record.values.get("dialog"), list):
        return False
    return "content" in record.first_message("dialog") or "survey_score" in record.values


def read(record: Record, identity: str) -> Dialogue:
    """Read one conversation; speakers named speaker and listener mark the failed set."""
    entries = record.messages("dialog")
    survey = record.record("survey_score").record("seeker")
    return Dialogue(
        id=identity,
        messages=tuple(_message(entry) for entry in entries),
        situation=record.text("situation", "").strip(),
        problem=record.text("problem_type", "").strip(),
        emotion=record.text("emotion_type", "").strip(),
        initial_intensity=survey.number("initial_emotion_intensity"),
        final_intensity=survey.number("final_emotion_intensity"),
        is_failed=any(entry.text("speaker") in _FAILED_SPEAKERS for entry in entries),
    )


def _message(entry: Record) -> Message:
    speaker = entry.text("speaker")
    if speaker not in _ROLES:
        raise UserError(
            f"{entry.where}: speaker must be one of {', '.join(_ROLES)}, got {speaker!r}"
        )
    return Message(
        role=_ROLES[speaker],
        text=entry.text("content"),
        strategy=entry.record("annotation").text("strategy", ""),
    )
