"""The people that a seeker agent plays: role cards, or those of real dialogues."""

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from rlff_lightning.dialogue.read import read_any
from rlff_lightning.dialogue.turns import merge_turns
from rlff_lightning.types import Dialogue, RoleCard


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """Someone who looks for support."""

    id: str
    """Unique within a file."""
    persona: str
    """Who they are and what troubles them."""
    opening: str = ""
    """Their first message; empty to let the model write it."""
    situation: str = ""
    """The problem in a sentence or two, where the source has it."""
    problem: str = ""
    """The kind of problem, where the source has it."""


def read_people(paths: str | Sequence[str]) -> list[Person]:
    """Read role cards, or dialogues of any known shape for the people in them.

    A dialogue's person opens with the situation, as in PPDPP's protocol (arXiv:2311.00262), or
    with their first turn where no situation is given. A role card says nothing: its opening is
    written by the model.

    Args:
        paths: A file, several, or a folder.

    Raises:
        UserError: If a file cannot be read as either.
    """
    return [
        _of_card(source) if isinstance(source, RoleCard) else _of_dialogue(source)
        for source in read_any(paths)
    ]


def people_digest(people: Sequence[Person]) -> str:
    """Hash all that is known of the people."""
    text = repr([astuple(person) for person in people])
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _of_card(card: RoleCard) -> Person:
    return Person(id=card.id, persona=card.text, problem=dict(card.fields).get("problem", ""))


def _of_dialogue(dialogue: Dialogue) -> Person:
    first = next(t.text for t in merge_turns(dialogue.messages) if t.role == "seeker")
    known = {"Problem": dialogue.problem, "Emotion": dialogue.emotion}
    lines = [
        dialogue.situation or first,
        *(f"{key}: {text}" for key, text in known.items() if text),
    ]
    return Person(
        id=dialogue.id,
        persona="\n".join(lines),
        opening=dialogue.situation or first,
        situation=dialogue.situation,
        problem=dialogue.problem,
    )
