"""Split a reply into reasoning and words while it is still being generated."""

from typing import Literal, NamedTuple

from rlff_lightning.dialogue.reply_format import CLOSE, OPEN
from rlff_lightning.types import Message


class Piece(NamedTuple):
    """A part of a reply that has become certain."""

    kind: Literal["reasoning", "reply"]
    text: str


class ReplyStream:
    """Takes text as it comes; what it has given out as reply or reasoning never changes.

    A well-formed output gives what ``parse_reply`` gives. What was shown cannot be taken back: a
    ``</think>`` that closes nothing is dropped.

    Args:
        is_reasoning_open: The prompt already ended with ``<think>``.
    """

    def __init__(self, *, is_reasoning_open: bool = False) -> None:
        self._is_reasoning = is_reasoning_open
        self._held = ""
        self._said = {"reasoning": "", "reply": ""}

    def feed(self, text: str) -> list[Piece]:
        """Take in the next characters; a tag's possible beginning is held back."""
        self._held += text
        pieces: list[Piece] = []
        while True:
            tags = [(place, tag) for tag in (OPEN, CLOSE) if (place := self._held.find(tag)) >= 0]
            if not tags:
                break
            place, tag = min(tags)
            self._give(self._held[:place], pieces)
            self._held = self._held[place + len(tag) :]
            self._is_reasoning = tag == OPEN
        keep = _begun_tag(self._held)
        self._give(self._held[: len(self._held) - keep], pieces)
        self._held = self._held[len(self._held) - keep :]
        return pieces

    def end(self) -> list[Piece]:
        """Give out what was held back."""
        pieces: list[Piece] = []
        self._give(self._held, pieces)
        self._held = ""
        return pieces

    @property
    def message(self) -> Message:
        """The supporter's message so far."""
        return Message(
            role="supporter",
            text=self._said["reply"].strip(),
            reasoning=self._said["reasoning"].strip(),
        )

    def _give(self, text: str, pieces: list[Piece]) -> None:
        kind: Literal["reasoning", "reply"] = "reasoning" if self._is_reasoning else "reply"
        # No white space before the first word.
        text = text if self._said[kind] else text.lstrip()
        if text:
            self._said[kind] += text
            pieces.append(Piece(kind, text))


def _begun_tag(text: str) -> int:
    """Length of the longest end of ``text`` that begins a tag."""
    for length in range(min(len(text), len(CLOSE) - 1), 0, -1):
        if OPEN.startswith(text[-length:]) or CLOSE.startswith(text[-length:]):
            return length
    return 0
