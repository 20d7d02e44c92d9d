"""ESC-Eval's role cards: people for a seeker agent to play."""

import re
from collections.abc import Iterable

from rlff_lightning.dialogue.source import Record
from rlff_lightning.types import RoleCard

NAME = "ESC-Eval role cards"

_FIELD = re.compile(r"\s*([^\Wa-z_]\w{0,20})\s*[:：]\s*(.*)")  # noqa: RUF001 (Chinese cards' colon)


def recognises(record: Record) -> bool:
    """Tell a role card by its ``base`` text."""
    return isinstance(record.values.get("base"), str)


def read(record: Record, identity: str) -> RoleCard:
    """Read one card and the ``Name: value`` lines of its text."""
    text = record.text("base").strip()
    return RoleCard(
        id=str(record.values.get("id", identity)),
        text=text,
        fields=_fields(text),
        source=record.text("source", "").strip(),
    )


def is_contaminated(card: RoleCard, trained_on: Iterable[str] = ("ESConv", "ExTES")) -> bool:
    """Tell whether a card was derived from data that a policy was trained on.

    Args:
        card: The card.
        trained_on: Names of the training data sets, in any case.

    Returns:
        True if results on this card must be reported apart from the clean ones.
    """
    return card.source.casefold() in {name.casefold() for name in trained_on}


def _fields(text: str) -> tuple[tuple[str, str], ...]:
    """Split ``Age: 27`` lines into pairs; a line without a capital name continues the last."""
    fields: list[tuple[str, str]] = []
    for line in text.split("\n"):
        match = _FIELD.fullmatch(line)
        if match:
            fields.append((match[1].lower(), match[2].strip()))
        elif fields and line.strip():
            name, value = fields[-1]
            fields[-1] = (name, f"{value} {line.strip()}".strip())
    return tuple(fields)
