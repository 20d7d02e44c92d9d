"""Chat messages as JSON lines: the project's own format, and everybody else's."""

import json
from collections.abc import Iterable
from pathlib import Path

from rlff_lightning.dialogue.source import Record
from rlff_lightning.errors import UserError
from rlff_lightning.types import Dialogue, Message, Role

NAME = "chat messages"

_ROLES: dict[str, Role] = {
    "user": "seeker",
    "assistant": "supporter",
    "seeker": "seeker",
    "supporter": "supporter",
}
_SPEAKERS: dict[Role, str] = {"seeker": "user", "supporter": "assistant"}


def recognises(record: Record) -> bool:
    """Tell chat messages by a ``messages`` list."""
    return isinstance(record.values.get("messages"), list)


def read(record: Record, identity: str) -> Dialogue:
    """Read one conversation; a system message is an instruction, not part of it."""
    messages = []
    for entry in record.messages("messages"):
        message = _message(entry)
        if message:
            messages.append(message)
    name = record.values.get("id")
    return Dialogue(
        id=str(name) if isinstance(name, int) else record.text("id", "") or identity,
        messages=tuple(messages),
        situation=record.text("situation", ""),
        problem=record.text("problem", ""),
        emotion=record.text("emotion", ""),
        initial_intensity=record.number("initial_intensity"),
        final_intensity=record.number("final_intensity"),
        is_failed=record.flag("is_failed"),
    )


def write_dialogues(path: str | Path, dialogues: Iterable[Dialogue]) -> None:
    """Write dialogues as chat-messages JSON lines, whole or not at all.

    ``read_dialogues`` gives back what was written, provided that texts carry no white space
    around them, as those of every reader.

    Args:
        path: File to write; its folder must exist.
        dialogues: What to write, in order.
    """
    path = Path(path)
    lines = [json.dumps(_entry(dialogue), ensure_ascii=False) + "\n" for dialogue in dialogues]
    part = path.with_name(path.name + ".part")
    try:
        part.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    part.replace(path)


def _message(entry: Record) -> Message | None:
    role = entry.text("role")
    if role == "system":
        return None
    if role not in _ROLES:
        raise UserError(
            f"{entry.where}: role must be one of {', '.join(_ROLES)}, system, got {role!r}"
        )
    return Message(
        role=_ROLES[role],
        text=entry.text("content"),
        reasoning=entry.text("reasoning", ""),
        strategy=entry.text("strategy", ""),
        critic_answers=entry.texts("critic_answers"),
    )


def _entry(dialogue: Dialogue) -> dict[str, object]:
    named: dict[str, object] = {
        "situation": dialogue.situation,
        "problem": dialogue.problem,
        "emotion": dialogue.emotion,
        "initial_intensity": dialogue.initial_intensity,
        "final_intensity": dialogue.final_intensity,
        "is_failed": dialogue.is_failed,
    }
    messages = [_message_entry(message) for message in dialogue.messages]
    return {"id": dialogue.id, **_given(named), "messages": messages}


def _message_entry(message: Message) -> dict[str, object]:
    named: dict[str, object] = {
        "reasoning": message.reasoning,
        "strategy": message.strategy,
        "critic_answers": message.critic_answers,
    }
    return {"role": _SPEAKERS[message.role], "content": message.text, **_given(named)}


def _given(named: dict[str, object]) -> dict[str, object]:
    """Leave out what a reader takes for granted; an intensity is never 0."""
    return {name: value for name, value in named.items() if value}
