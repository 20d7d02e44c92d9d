"""A model that answers chats: in this process or on a server, many chats in one batched call.

Nothing is raised for one chat: what could not be answered says why in its ``failure``.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rlff_lightning.errors import UserError

FaultCause = Literal["timeout", "connection", "rate limit", "server error", "bad answer"]
"""Why a request had to be sent again; a bad answer is invalid JSON or one without choices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatTurn:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    """Who speaks; the model is the assistant."""
    content: str
    """What is said; control tokens in it are only letters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """What a model is asked."""

    turns: tuple[ChatTurn, ...]
    """A system prompt first, if any; the last turn is the user's."""
    seed: int
    """Of every draw made for the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatSampling:
    """How answers are drawn."""

    temperature: float = 1.0
    """0 is greedy."""
    max_tokens: int = 256
    """Limit of an answer."""
    num_samples: int = 1
    """Answers to each chat."""
    choices: tuple[str, ...] = ()
    """The answer is one of these; empty for free text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What one chat took."""

    requests: int = 0
    """Completions asked for, those sent again not included."""
    retries: tuple[FaultCause, ...] = ()
    """Cause of every request that was sent again."""
    prompt_tokens: int = 0
    """Tokens read, as the backend counts them."""
    completion_tokens: int = 0
    """Tokens sampled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatText:
    """One sampled answer."""

    text: str
    """The answer; reasoning that the backend did not take out is still in it."""
    is_finished: bool = True
    """The model ended by itself, not at the token limit."""
    reasoning: str = ""
    """Reasoning that the backend gave apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came back for a chat."""

    texts: tuple[ChatText, ...] = ()
    """``num_samples`` answers; none if it failed."""
    failure: str = ""
    """Why there is no answer after every retry."""
    usage: Usage = field(default_factory=Usage)
    """What it took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptionScores:
    """How likely a model is to give each of several answers."""

    logps: tuple[float, ...] = ()
    """Log-probability of each option in nats, up to one constant; none if it failed."""
    failure: str = ""
    """Why there are no scores after every retry."""
    usage: Usage = field(default_factory=Usage)
    """What it took."""


class ChatModel(ABC):
    """Answers chats."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The model's name, as results state it."""

    @property
    def is_concurrent(self) -> bool:
        """Whether several threads may be within its calls, though one runs at a time."""
        return False

    @abstractmethod
    def answer(self, chats: Sequence[Chat], sampling: ChatSampling) -> list[Answer]:
        """Answer every chat, all in one batched call.

        Returns:
            One answer per chat, in order, with ``sampling.num_samples`` texts or a failure.
        """

    @abstractmethod
    def score(self, chats: Sequence[Chat], options: Sequence[str]) -> list[OptionScores]:
        """Score given answers instead of sampling any, at temperature 1.

        The end of the answer is not scored, so no option may begin with another one.

        Returns:
            For each chat the log-probability of every option.

        Raises:
            UserError: If the backend cannot score, or an option begins with another.
        """

    def start(self) -> None:
        """Set up what the processes of a run must set up in the same step, if anything."""
        return

    def close(self) -> None:
        """Free what the model holds; it cannot be used afterwards."""
        return


def check_options(owner: str, options: Sequence[str]) -> None:
    """Refuse options whose probabilities would overlap.

    Raises:
        UserError: If there are fewer than two, or one begins with another.
    """
    if len(options) < 2:
        raise UserError(f"{owner}: options must be two or more, got {list(options)}")
    for place, option in enumerate(options):
        for other in (*options[:place], *options[place + 1 :]):
            if other.startswith(option):
                raise UserError(
                    f"{owner}: no option may be the beginning of another, got {option!r} "
                    f"and {other!r}"
                )
