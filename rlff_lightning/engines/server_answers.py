"""Requests to a server's chat completions, and what their answers hold."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice

from rlff_lightning.engines.chat_model import Chat, ChatSampling, ChatText
from rlff_lightning.engines.server_faults import TransientError
from rlff_lightning.errors import UserError

_CONTROL = re.compile(
    r"<(?=\|[^\s|<>]+\|>|/?s>|/?think>|(?:start|end)_of_turn>)|\[(?=/?INST\])", re.IGNORECASE
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

ChoiceBy = Literal["structured_outputs", "json_schema"]
"""How a server is held to options: vLLM's own way, or the one of OpenAI's API."""

_KEY = "answer"


class Texts(NamedTuple):
    """Sampled answers."""

    texts: tuple[ChatText, ...]
    prompt_tokens: int
    completion_tokens: int


class ScoredPrompt(NamedTuple):
    """A prompt's tokens with their log-probabilities, from the second token on."""

    token_ids: tuple[int, ...]
    logps: tuple[float, ...]


def chat_body(
    model: str, chat: Chat, sampling: ChatSampling, choice_by: ChoiceBy = "structured_outputs"
) -> dict[str, Any]:
    """Word the request for sampled answers; greedy ones are all the same, so one is asked for."""
    body: dict[str, Any] = {
        "model": model,
        "messages": _messages(chat),
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "n": 1 if sampling.temperature == 0 else sampling.num_samples,
        "top_p": 1.0,
        "seed": chat.seed,
    }
    if sampling.choices and choice_by == "structured_outputs":
        body["extra_body"] = {"structured_outputs": {"choice": list(sampling.choices)}}
    elif sampling.choices:
        schema = {
            "type": "object",
            "properties": {_KEY: {"type": "string", "enum": list(sampling.choices)}},
            "required": [_KEY],
            "additionalProperties": False,
        }
        named = {"name": "choice", "strict": True, "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    return body


def score_body(model: str, chat: Chat, option: str) -> dict[str, Any]:
    """Word the request for the log-probabilities of a given answer."""
    return {
        "model": model,
        "messages": [*_messages(chat), {"role": "assistant", "content": option}],
        "temperature": 0.0,
        "max_tokens": 1,
        "extra_body": {
            "prompt_logprobs": 0,
            "return_token_ids": True,
            "add_generation_prompt": False,
            "continue_final_message": True,
        },
    }


def read_texts(answer: ChatCompletion, count: int) -> Texts:
    """Take sampled answers out of the server's reply.

    Raises:
        TransientError: If there are fewer than ``count``, or they are no text.
    """
    # The client builds its objects without a check: anything may be in them.
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list) or len(choices) < count:
        found = len(choices) if isinstance(choices, list) else "no"
        raise TransientError("bad answer", f"{found} choices instead of {count}")
    return Texts(tuple(_text(choice) for choice in choices[:count]), *_tokens(answer))


def read_scores(answer: ChatCompletion) -> ScoredPrompt:
    """Take the prompt's log-probabilities out of the server's reply.

    Raises:
        TransientError: If they do not fit the prompt's tokens.
        UserError: If the server gives none.
    """
    if not isinstance(getattr(answer, "choices", None), list):
        raise TransientError("bad answer", "no choices")
    found = getattr(answer, "prompt_logprobs", None)
    token_ids = getattr(answer, "prompt_token_ids", None)
    if found is None or token_ids is None:
        raise UserError(
            "ServerChatModel.score needs a server that gives prompt_logprobs, as vLLM does, and "
            "this one gives none; read the critic by samples or choice"
        )
    try:
        logps = tuple(
            float(entry[str(token)]["logprob"])
            for token, entry in zip(token_ids[1:], found[1:], strict=True)
        )
    except (TypeError, KeyError, ValueError):
        raise TransientError("bad answer", "prompt_logprobs do not fit the prompt") from None
    if not all(map(math.isfinite, logps)):
        raise TransientError("bad answer", "prompt_logprobs are not finite")
    return ScoredPrompt(tuple(token_ids), logps)


def unwrapped(texts: Texts) -> Texts:
    """Take the chosen options out of the JSON that a schema asked for; what is none stays."""
    return texts._replace(texts=tuple(map(_unwrapped, texts.texts)))


def option_logps(scored: Sequence[ScoredPrompt]) -> tuple[float, ...]:
    """Sum the log-probabilities of what differs between prompts that end with the options.

    What they share, the chat and the first words of the options, adds the same to each.

    Args:
        scored: The same chat with a different answer each.

    Returns:
        Log-probability of each answer in nats, up to one constant.
    """
    rows = [row.token_ids for row in scored]
    shared = 0
    while all(len(row) > shared for row in rows) and len({row[shared] for row in rows}) == 1:
        shared += 1
    # The first token has no log-probability: token n has the one at n - 1.
    return tuple(math.fsum(row.logps[shared - 1 :]) for row in scored)


def _messages(chat: Chat) -> list[dict[str, str]]:
    # The server's tokenizer would take control tokens for what they look like: a space breaks them.
    return [
        {"role": turn.role, "content": _CONTROL.sub(lambda match: match[0] + " ", turn.content)}
        for turn in chat.turns
    ]


def _text(choice: Choice) -> ChatText:
    message = getattr(choice, "message", None)
    content = getattr(message, "content", None) or ""
    thought = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    if message is None or not isinstance(content, str) or not isinstance(thought or "", str):
        raise TransientError("bad answer", "a choice without a message of text")
    if _LONE_SURROGATE.search(content) or _LONE_SURROGATE.search(thought or ""):
        # JSON can hold half a character, but no file that this text goes into.
        raise TransientError("bad answer", "a text with a lone surrogate")
    is_finished = getattr(choice, "finish_reason", None) != "length"
    return ChatText(text=content, is_finished=is_finished, reasoning=thought or "")


def _unwrapped(text: ChatText) -> ChatText:
    try:
        return replace(text, text=str(json.loads(text.text)[_KEY]))
    except (json.JSONDecodeError, KeyError, TypeError):
        # Cut off by the token limit, or the server knows no schema: the rule's parser will see.
        return text


def _tokens(answer: ChatCompletion) -> tuple[int, int]:
    usage = getattr(answer, "usage", None)
    counts = (getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens"))
    prompt, completion = (count if isinstance(count, int) else 0 for count in counts)
    return prompt, completion
