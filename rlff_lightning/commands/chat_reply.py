"""A reply as it is shown while it is generated: what evaluation would not hear is not said."""

import re

from rlff_lightning.agents.repairing import policy_repair
from rlff_lightning.dialogue.reply_stream import Piece, ReplyStream
from rlff_lightning.types import Message

# Behind these somebody else's name may begin, or a control token with them.
_BORDER = re.compile(r"""[\n.!?…。！？"”]|(?=[<\[])""")  # noqa: RUF001


class TidyReply:
    """Takes text as it comes, and cuts it where the policy speaks for somebody else.

    The beginning of a sentence is held back until it can no longer be a speaker's name.

    Args:
        is_reasoning_open: The prompt already ended with ``<think>``.
    """

    def __init__(self, *, is_reasoning_open: bool = False) -> None:
        self._stream = ReplyStream(is_reasoning_open=is_reasoning_open)
        self._repair = policy_repair()
        # A name may have an ending, and stand in brackets or asterisks.
        self._longest = max(map(len, self._repair.labels)) + 15
        self._shown = ""
        self.message = Message(role="supporter", text="")
        """What is said so far, and in the end."""
        self.is_cut = False
        """Somebody else's words have begun; nothing more will be shown."""

    def feed(self, text: str) -> list[Piece]:
        """Take in the next characters."""
        pieces = self._tidied(self._stream.feed(text), is_finished=True)
        said = self.message.text
        *_, border = (0, *(match.end() for match in _BORDER.finditer(said)))
        is_held = len(said) - border < self._longest and not self.is_cut
        return pieces + self._show(said[:border].rstrip() if is_held else said)

    def end(self, *, is_finished: bool) -> list[Piece]:
        """Give out what was held back; an unfinished last sentence is no part of the message."""
        pieces = self._tidied(self._stream.end(), is_finished=is_finished)
        return pieces + self._show(self.message.text)

    @property
    def is_shortened(self) -> bool:
        """More was shown than is said in the end."""
        return len(self._shown) > len(self.message.text)

    def _tidied(self, pieces: list[Piece], *, is_finished: bool) -> list[Piece]:
        written = self._stream.message
        heard, _ = self._repair.heard(written.text, is_finished=is_finished)
        self.message = Message(role="supporter", text=heard.text, reasoning=written.reasoning)
        # A name before the message is taken off: then its end is the text's. What looks like a name
        # may yet turn out to be a word, such as the German "Berater:innen".
        num_left_out = len(written.text) - len(heard.text)
        self.is_cut = num_left_out > self._longest and not written.text.endswith(heard.text)
        return [piece for piece in pieces if piece.kind == "reasoning"]

    def _show(self, text: str) -> list[Piece]:
        if not text.startswith(self._shown) or text == self._shown:
            return []
        piece = Piece("reply", text[len(self._shown) :])
        self._shown = text
        return [piece]
