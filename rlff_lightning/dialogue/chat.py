"""Conversations as tokens: the model's chat template around text that stays text.

Control tokens inside a message (``<|im_end|>``, ``<think>``) are never encoded as such: only the
template can open or end a role.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from rlff_lightning.dialogue.reply_format import CLOSE, OPEN
from rlff_lightning.errors import UserError
from rlff_lightning.types import Conversation, Message, Role

_SLOT = "\ue000{}\ue001"
_TEMPLATE_ROLES: dict[Role, str] = {"seeker": "user", "supporter": "assistant"}
_SLOT_PATTERN = re.compile("\ue000(\\d+)\ue001")
_SHORT = 1000
"""Characters of a text of which many are remembered."""


class PromptTooLongError(UserError):
    """A conversation that exceeds ``max_prompt_tokens``; others may fit."""


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

    def add(self, ids: Sequence[int], *, is_seeker: bool) -> None:
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
        # The same messages are rendered again and again, turn after turn and sibling by sibling. Of
        # long texts, which a critic's whole transcripts are, that many would fill the memory.
        self._encode_short = lru_cache(maxsize=2**16)(self._encode_anew)
        self._encode_long = lru_cache(maxsize=2**11)(self._encode_anew)
        self._split_template = lru_cache(maxsize=2**10)(self._split_anew)

    def encode_text(self, text: str) -> list[int]:
        """Encode text in which control tokens are only letters."""
        return list(self._encode_message(text))

    def _encode_message(self, text: str) -> tuple[int, ...]:
        return (self._encode_short if len(text) <= _SHORT else self._encode_long)(text)

    def _encode_anew(self, text: str) -> tuple[int, ...]:
        ids: list[int] = []
        start = 0
        # A control token is cut after its first character, so that no piece holds a whole one.
        for match in self._control.finditer(text) if self._control else ():
            cut = match.start() + 1
            ids += self.tokenizer.encode(text[start:cut], add_special_tokens=False)
            start = cut
        return (*ids, *self.tokenizer.encode(text[start:], add_special_tokens=False))

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """Render a conversation up to where the supporter's reply begins; see `render`."""
        return self.render(conversation).ids

    def render(self, conversation: Conversation) -> Prompt:
        """Render a conversation and tell the seeker's words from all else.

        Raises:
            PromptTooLongError: If the prompt exceeds ``max_prompt_tokens``.
            UserError: If the tokenizer's template leaves a message or the system prompt out.
        """
        messages = conversation.messages
        if self.settings.max_messages is not None:
            messages = messages[-self.settings.max_messages :]
        texts = [message.text for message in messages]
        if self.settings.system:
            texts.append(self.settings.system.replace("{situation}", conversation.situation))
        roles = tuple(message.role for message in messages)
        prompt = Prompt([], [])
        for template_ids, index in self._split_template(roles):
            prompt.add(template_ids, is_seeker=False)
            if index is not None:
                is_seeker = index < len(roles) and roles[index] == "seeker"
                prompt.add(self._encode_message(texts[index]), is_seeker=is_seeker)
        ids = prompt.ids
        if len(ids) > self.settings.max_prompt_tokens:
            raise PromptTooLongError(
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

    def _split_anew(self, roles: tuple[Role, ...]) -> list[tuple[list[int], int | None]]:
        """Encode the template around messages of these roles.

        Returns:
            Token ids of a piece of the template, and the number of the text that follows it; the
            system prompt counts after the messages, and nothing follows the last piece.
        """
        turns = [
            {"role": _TEMPLATE_ROLES[role], "content": _SLOT.format(index)}
            for index, role in enumerate(roles)
        ]
        if self.settings.system:
            turns.insert(0, {"role": "system", "content": _SLOT.format(len(roles))})
        rendered = self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        # Splitting by a pattern with a group gives template, number, template, …, template.
        parts = _SLOT_PATTERN.split(rendered)
        shown = [int(number) for number in parts[1::2]]
        if sorted(shown) != list(range(len(turns))):
            raise UserError(
                f"the tokenizer's chat template shows {len(set(shown))} of {len(turns)} texts; "
                "it must show every message, and the system prompt if there is one, once"
            )
        encoded = [self.tokenizer.encode(part, add_special_tokens=False) for part in parts[::2]]
        return list(zip(encoded, [*shown, None], strict=True))
