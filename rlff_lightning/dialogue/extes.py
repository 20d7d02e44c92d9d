"""ExTES: conversations that a language model wrote, irregular in every way a model finds."""

from rlff_lightning.dialogue.source import Record
from rlff_lightning.errors import UserError
from rlff_lightning.types import Dialogue, Message, Role

NAME = "ExTES"

_ROLES: dict[str, Role] = {"User": "seeker", "AI": "supporter"}
_STRATEGY = "AI Strategy"


def recognises(record: Record) -> bool:
    """Tell ExTES by a ``content`` list whose entries are keyed by side, or by its ``scene``."""
    if not isinstance(record.values.get("content"), list):
        return False
    is_keyed_by_side = not record.first_message("content").keys().isdisjoint({*_ROLES, _STRATEGY})
    return is_keyed_by_side or "scene" in record.values


def read(record: Record, identity: str) -> Dialogue:
    """Read one conversation; sides may be missing, doubled, nested or out of turn."""
    messages: list[Message] = []
    for entry in record.messages("content"):
        messages.extend(_messages(entry))
    return Dialogue(
        id=identity,
        messages=tuple(messages),
        situation=record.text("description", "").strip(),
        problem=record.text("scene", "").strip(),
    )


def _messages(entry: Record) -> list[Message]:
    sides = [side for side in entry.values if side in _ROLES]
    if not sides and entry.values.keys() - {_STRATEGY}:
        unknown = ", ".join(repr(key) for key in entry.values if key != _STRATEGY)
        raise UserError(f"{entry.where}: speaker must be one of User, AI, got {unknown}")
    if not sides:
        # A strategy whose reply was never written: an empty message, to be counted as such.
        return [Message(role="supporter", text="")]
    return [
        Message(
            role=_ROLES[side],
            text=_said(entry, side),
            strategy=entry.text(_STRATEGY, "").strip() if side == "AI" else "",
        )
        for side in sides
    ]


def _said(entry: Record, side: str) -> str:
    if isinstance(entry.values[side], dict):
        return entry.record(side).text("Response", "")
    return entry.text(side, "")
