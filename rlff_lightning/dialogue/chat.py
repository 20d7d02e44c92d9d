"""Conversations as tokens: the model's chat template around text that stays text.

Control tokens inside a message (``<|im_end|>``, ``<think>``) are never encoded as such: only the
template can open or end a role.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from rlff_lightning.dialogue.reply_format import CLOSE, OPEN
from rlff_lightning.errors import UserError
from rlff_lightning.types import Conversation, Message

_SLOT = "\ue000{}\ue001"
_SLOT_PATTERN = re.compile("\ue000(\\d+)\ue001")


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def apply_chat_template(
        self,
        conversation: Any,
        *,
        tokenize: bool,
        add_generation_prompt: bool,
    ) -> Any: ...

    def get_added_vocab(self) -> dict[str, int]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatSettings:
    """How conversations are shown to the policy."""

    system: str = ""
    """System prompt; may use ``{situation}``. Empty for none."""
    max_prompt_tokens: int = 1024
    """Limit of a prompt; a longer one is an error unless ``max_messages`` cuts it."""
    max_messages: int | None = None
    """Show only this many latest messages; ``None`` shows all."""

    def __post_init__(self) -> None:
        for name in ("max_prompt_tokens", "max_messages"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"ChatSettings.{name} must be at least 1, got {value!r}")


class Prompt(NamedTuple):
    """A rendered conversation. P tokens."""

    ids: list[int]
    """Token ids, P."""
    is_seeker: list[bool]
    """Which tokens are the seeker's own words, P."""

    def add(self, ids: list[int], *, is_seeker: bool) -> None:
        """Append tokens of one piece."""
        self.ids.extend(ids)
        self.is_seeker.extend([is_seeker] * len(ids))


class ChatFormat:
    """Render conversations and replies for one tokenizer.

    Args:
        tokenizer: A tokenizer with a chat template.
        settings: System prompt and limits.
    """

    def __init__(self, tokenizer: Tokenizer, settings: ChatSettings | None = None) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError("tokenizer must have an end-of-sequence token, got none")
        self.tokenizer = tokenizer
        self.settings = settings or ChatSettings()
        self.eos_id: int = tokenizer.eos_token_id
        controls = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, controls))) if controls else None
        self._pieces: dict[str, list[int]] = {}

    def encode_text(self, text: str) -> list[int]:
        """Encode text in which control tokens are only letters."""
        ids: list[int] = []
        start = 0
        # A control token is cut after its first character, so that no piece holds a whole one.
        for match in self._control.finditer(text) if self._control else ():
            cut = match.start() + 1
            ids += self.tokenizer.encode(text[start:cut], add_special_tokens=False)
            start = cut
        return ids + self.tokenizer.encode(text[start:], add_special_tokens=False)

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """Render a conversation up to where the supporter's reply begins; see `render`."""
        return self.render(conversation).ids

    def render(self, conversation: Conversation) -> Prompt:
        """Render a conversation and tell the seeker's words from all else.

        Raises:
            UserError: If the prompt exceeds ``max_prompt_tokens``, or the tokenizer's template
                leaves a message or the system prompt out.
        """
        messages = conversation.messages
        if self.settings.max_messages is not None:
            messages = messages[-self.settings.max_messages :]
        texts = [message.text for message in messages]
        turns = [
            {
                "role": "user" if message.role == "seeker" else "assistant",
                "content": _SLOT.format(index),
            }
            for index, message in enumerate(messages)
        ]
        if self.settings.system:
            turns.insert(0, {"role": "system", "content": _SLOT.format(len(texts))})
            texts.append(self.settings.system.replace("{situation}", conversation.situation))
        prompt = self._fill(turns, texts, [message.role == "seeker" for message in messages])
        ids = prompt.ids
        if len(ids) > self.settings.max_prompt_tokens:
            raise UserError(
                f"conversation {conversation.id!r}: prompt must have at most "
                f"max_prompt_tokens={self.settings.max_prompt_tokens} tokens, got {len(ids)}; "
                "raise the limit or set max_messages"
            )
        return prompt

    def reply_ids(self, reply: Message) -> list[int]:
        """Encode a supporter's message as the policy should produce it, end included."""
        think: list[int] = []
        if reply.reasoning:
            encode = self.tokenizer.encode
            think += encode(OPEN, add_special_tokens=False)
            think += self.encode_text(reply.reasoning)
            think += encode(CLOSE, add_special_tokens=False)
        return [*think, *self.encode_text(reply.text), self.eos_id]

    def _fill(
        self,
        turns: Sequence[Mapping[str, str]],
        texts: Sequence[str],
        spoken_by_seeker: Sequence[bool],
    ) -> Prompt:
        rendered = self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        shown = [int(match.group(1)) for match in _SLOT_PATTERN.finditer(rendered)]
        if sorted(shown) != list(range(len(texts))):
            raise UserError(
                f"the tokenizer's chat template shows {len(set(shown))} of {len(texts)} texts; "
                "it must show every message, and the system prompt if there is one, once"
            )
        prompt = Prompt([], [])
        start = 0
        for match in _SLOT_PATTERN.finditer(rendered):
            index = int(match.group(1))
            prompt.add(self._encode_template(rendered[start : match.start()]), is_seeker=False)
            is_seeker = index < len(spoken_by_seeker) and spoken_by_seeker[index]
            prompt.add(self.encode_text(texts[index]), is_seeker=is_seeker)
            start = match.end()
        prompt.add(self._encode_template(rendered[start:]), is_seeker=False)
        return prompt

    def _encode_template(self, piece: str) -> list[int]:
        if piece not in self._pieces:
            self._pieces[piece] = self.tokenizer.encode(piece, add_special_tokens=False)
        return self._pieces[piece]
