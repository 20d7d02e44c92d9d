"""What a reward model reads: the context and the reply, never the reasoning behind it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rlff_lightning.dialogue.chat import ChatFormat, ChatSettings
from rlff_lightning.errors import UserError
from rlff_lightning.types import Conversation, Message

NAMES = {"seeker": "Seeker", "supporter": "Supporter"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardInput:
    """Limits of a reward model's input; saved with the model, so that scoring reads as training."""

    max_tokens: int = 512
    """Limit of context and reply together."""
    max_messages: int | None = None
    """Latest messages of context shown; ``None`` shows all."""
    too_long: Literal["error", "drop_oldest"] = "error"
    """Over the limit: stop, or drop the oldest messages until it fits, and count that."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_messages"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"RewardInput.{name} must be at least 1, got {value!r}")


class RewardFormat:
    """Render (context, reply) for one tokenizer.

    A tokenizer with a chat template renders the conversation by it; one without, an encoder's,
    reads ``Seeker: … Supporter: …`` and the reply as a pair of texts.

    Args:
        tokenizer: A Hugging Face tokenizer.
        settings: Limits.
    """

    def __init__(self, tokenizer: Any, settings: RewardInput | None = None) -> None:
        self.tokenizer = tokenizer
        self.settings = settings or RewardInput()
        self.num_shortened = 0
        self._chat: ChatFormat | None = None
        if getattr(tokenizer, "chat_template", None):
            # The limit is this class's own.
            self._chat = ChatFormat(tokenizer, ChatSettings(max_prompt_tokens=2**31))

    def ids(self, context: Conversation, reply: Message) -> list[int]:
        """Encode a reply in its context as one sequence; see ``parts``."""
        before, said = self.parts(context, reply)
        return [*before, *said]

    def parts(self, context: Conversation, reply: Message) -> tuple[list[int], list[int]]:
        """Encode a context and a reply to it.

        Returns:
            Token ids of the context, the same for every reply that fits without a cut, and of
            the reply; with an encoder's tokenizer all of it is in the first part.

        Raises:
            UserError: If it is over the limit and ``too_long`` is ``error``, or if the latest
                message and the reply alone are over it.
        """
        settings = self.settings
        messages = context.messages[-(settings.max_messages or 0) :]
        before, said = self._encode(context, messages, reply)
        if len(before) + len(said) <= settings.max_tokens:
            return before, said
        is_cut = settings.too_long == "drop_oldest"
        while is_cut and len(messages) > 1 and len(before) + len(said) > settings.max_tokens:
            messages = messages[1:]
            before, said = self._encode(context, messages, reply)
        if len(before) + len(said) > settings.max_tokens:
            raise self._over_limit(context, len(before) + len(said))
        self.num_shortened += 1
        return before, said

    def apart(
        self, context: Conversation, reply: Message
    ) -> tuple[list[int], list[int], list[int]]:
        """Encode a context, its latest message and a reply to it, each as a text of its own.

        Returns:
            Token ids of the three, each within the limit.

        Raises:
            UserError: If the context is over the limit and ``too_long`` is ``error``, or if a
                single message is.
        """
        shown = messages = context.messages[-(self.settings.max_messages or 0) :]
        told = self._text_ids(context, shown)
        is_cut = self.settings.too_long == "drop_oldest"
        while is_cut and len(shown) > 1 and len(told) > self.settings.max_tokens:
            shown = shown[1:]
            told = self._text_ids(context, shown)
        latest = self._text_ids(context, messages[-1:])
        spoken = replace(reply, reasoning="")
        said = self._chat.reply_ids(spoken) if self._chat else self._text_ids(context, (spoken,))
        longest = max(len(told), len(latest), len(said))
        if longest > self.settings.max_tokens:
            raise self._over_limit(context, longest)
        self.num_shortened += len(shown) < len(messages)
        return told, latest, said

    def _text_ids(self, context: Conversation, messages: tuple[Message, ...]) -> list[int]:
        if self._chat is not None:
            return self._chat.prompt_ids(replace(context, messages=messages))
        told = messages[0].text if len(messages) == 1 else _named(messages)
        # Text that looks like a control token must stay text.
        encoded: list[int] = self.tokenizer(told, split_special_tokens=True)["input_ids"]
        return encoded

    def _over_limit(self, context: Conversation, length: int) -> UserError:
        return UserError(
            f"context {context.id!r}: a reward model's input must have at most "
            f"RewardInput.max_tokens={self.settings.max_tokens} tokens, got {length}; "
            "raise the limit or set too_long: drop_oldest"
        )

    def _encode(
        self, context: Conversation, messages: tuple[Message, ...], reply: Message
    ) -> tuple[list[int], list[int]]:
        spoken = replace(reply, reasoning="")
        if self._chat is not None:
            shown = replace(context, messages=messages)
            return self._chat.prompt_ids(shown), self._chat.reply_ids(spoken)
        told = _named(messages)
        # Text that looks like a control token must stay text.
        encoded = self.tokenizer(told, spoken.text, split_special_tokens=True)
        return encoded["input_ids"], []


def _named(messages: Sequence[Message]) -> str:
    return "\n".join(f"{NAMES[message.role]}: {message.text}" for message in messages)


def write_reward_input(settings: RewardInput, folder: Path) -> None:
    """Write the limits beside the reward model they belong to."""
    (folder / _FILE).write_text(json.dumps(asdict(settings), indent=2), encoding="utf-8")


def read_reward_input(folder: Path) -> RewardInput:
    """Read the limits that a reward model was trained with.

    Raises:
        UserError: If they are missing.
    """
    file = folder / _FILE
    if not file.is_file():
        raise UserError(f"{folder}: no reward model: must hold {_FILE}")
    return RewardInput(**json.loads(file.read_text(encoding="utf-8")))


_FILE = "reward_input.json"
