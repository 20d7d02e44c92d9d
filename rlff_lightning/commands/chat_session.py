"""A conversation in the terminal: what is said, shown and saved."""

import sys
import unicodedata
from datetime import datetime
from pathlib import Path

from rlff_lightning.commands.chat_policy import ChatPolicy
from rlff_lightning.dialogue.chat_messages import write_dialogues
from rlff_lightning.dialogue.crisis import find_crisis
from rlff_lightning.dialogue.help_lines import crisis_notice
from rlff_lightning.dialogue.reply_stream import Piece, ReplyStream
from rlff_lightning.errors import UserError
from rlff_lightning.types import Conversation, Dialogue, Message

_RULE = "-" * 72


class ChatSession:
    """Takes the person's lines and lets the policy reply.

    Args:
        policy: Replies.
        transcript: Chat-messages JSONL, written anew after every turn; ``None`` saves nothing.
        situation: What a system prompt's ``{situation}`` stands for.
        shows_reasoning: Print the reasoning before the reply.
    """

    def __init__(
        self,
        policy: ChatPolicy,
        transcript: Path | None,
        *,
        situation: str = "",
        shows_reasoning: bool = False,
    ) -> None:
        self.policy = policy
        self.transcript = transcript
        self.situation = situation
        self.shows_reasoning = shows_reasoning
        self._id = datetime.now().astimezone().strftime("chat-%Y%m%dT%H%M%S")
        self._messages: list[Message] = []

    def turn(self, line: str) -> None:
        """Obey a command, or take the line as what the person says."""
        if line == "/reasoning":
            self.shows_reasoning = not self.shows_reasoning
            _write(f"(reasoning is {'shown' if self.shows_reasoning else 'hidden'})\n")
        elif line == "/lines":
            _write(crisis_notice() + "\n")
        elif line.startswith("/"):
            _write("(commands: /reasoning, /lines, /quit)\n")
        else:
            self._talk(line)

    def _talk(self, line: str) -> None:
        if find_crisis(line):
            _write(f"\n{_RULE}\n{crisis_notice()}\n{_RULE}\n")
        self._messages.append(Message(role="seeker", text=line))
        conversation = Conversation(
            id=self._id, messages=tuple(self._messages), situation=self.situation
        )
        try:
            prompt, num_unseen = self.policy.prompt(conversation)
        except UserError as error:
            self._messages.pop()
            _write(f"(too long: {error})\n")
            return
        if num_unseen:
            _write(f"(the policy does not see the first {num_unseen} messages any more)\n")
        stream = ReplyStream(is_reasoning_open=self.policy.is_reasoning_open(prompt))
        self._show(stream, prompt)
        reply = stream.message
        if reply.text:
            self._messages.append(reply)
        else:
            _write("(the policy gave no reply; /reasoning shows what it thought)")
        _write("\n")
        self._save()

    def _show(self, stream: ReplyStream, prompt: list[int]) -> None:
        shown = ""
        try:
            for text in self.policy.stream(prompt, len(self._messages)):
                shown = self._print(stream.feed(text), shown)
            self._print(stream.end(), shown)
        except KeyboardInterrupt:
            self._print(stream.end(), shown)
            _write(" (stopped)")

    def _print(self, pieces: list[Piece], shown: str) -> str:
        for piece in pieces:
            if piece.kind == "reasoning" and not self.shows_reasoning:
                continue
            if piece.kind != shown:
                _write("\n" if shown else "")
                _write("policy thinks> " if piece.kind == "reasoning" else "policy> ")
                shown = piece.kind
            _write(_printable(piece.text))
        return shown

    def _save(self) -> None:
        if self.transcript is None:
            return
        dialogue = Dialogue(
            id=self._id, messages=tuple(self._messages), situation=self.situation.strip()
        )
        write_dialogues(self.transcript, [dialogue])


def _printable(text: str) -> str:
    """Drop control characters: a model's words must not steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf"))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
