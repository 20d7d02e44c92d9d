"""A conversation in the terminal: what is said, shown and saved."""

import os
import sys
import unicodedata
from datetime import datetime
from pathlib import Path

from rlff_lightning.commands.chat_policy import ChatPolicy
from rlff_lightning.commands.chat_reply import TidyReply
from rlff_lightning.dialogue.chat_messages import write_dialogues
from rlff_lightning.dialogue.crisis import find_crisis
from rlff_lightning.dialogue.help_lines import crisis_notice, help_lines
from rlff_lightning.dialogue.reply_stream import Piece
from rlff_lightning.errors import UserError
from rlff_lightning.types import Conversation, Dialogue, Message

_RULE = "-" * 72
_MAX_EMPTY_RETRIES = 3
"""As many as an evaluation's supporter has by default."""


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
            _write(help_lines() + "\n")
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
        for attempt in range(1 + _MAX_EMPTY_RETRIES):
            if attempt and self.shows_reasoning:
                _write("\n")
            stream = TidyReply(is_reasoning_open=self.policy.is_reasoning_open(prompt))
            is_stopped = self._show(stream, prompt, attempt)
            reply = stream.message
            if reply.text or is_stopped:
                break
        if reply.text:
            self._messages.append(reply)
        else:
            _write("(the policy gave no reply; /reasoning shows what it thought)")
        _write("\n")
        self._save()

    def _show(self, stream: TidyReply, prompt: list[int], attempt: int) -> bool:
        """Print a reply as it comes, and tell whether the person stopped it."""
        shown, is_stopped = "", False
        try:
            for text in self.policy.stream(prompt, len(self._messages), attempt):
                shown = self._print(stream.feed(text), shown)
                if stream.is_cut:
                    break
        except KeyboardInterrupt:
            is_stopped = True
        is_finished = self.policy.is_finished or stream.is_cut or is_stopped
        self._print(stream.end(is_finished=is_finished), shown)
        if is_stopped:
            _write(" (stopped)")
        elif stream.is_shortened:
            _write(" (cut off; the unfinished sentence is not part of the conversation)")
        return is_stopped

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
        # What people write here is nobody else's business, in whatever folder it lies.
        before = os.umask(0o077)
        try:
            write_dialogues(self.transcript, [dialogue])
        finally:
            os.umask(before)


def _printable(text: str) -> str:
    """Drop control characters: a model's words must not steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf"))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
