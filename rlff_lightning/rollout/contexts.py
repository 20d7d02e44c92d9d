"""Streams of contexts that the policy is asked to reply to while it learns."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from rlff_lightning.agents.base import Critic, Seeker
from rlff_lightning.agents.self_play import say
from rlff_lightning.dialogue.read_contexts import check_share, read_contexts
from rlff_lightning.errors import UserError
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation, Message


class ContextStream(ABC):
    """An endless, resumable supply of contexts."""

    @abstractmethod
    def start(self, seed: int) -> None:
        """Begin the stream; the same seed gives the same contexts for the same replies."""

    @abstractmethod
    def take(self, count: int) -> list[Conversation]:
        """Give the contexts of an iteration."""

    def observe(self, replies: Sequence[Sequence[Message]]) -> dict[str, float]:
        """See the group of replies to each context just taken.

        Returns:
            What the stream has to report, by log key.
        """
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Give all that a resumed stream needs, as plain values."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was called."""


class DialogueContexts(ContextStream):
    """Contexts of the supporter turns in dialogues from files, in a new order every round.

    Args:
        paths: Files of any known dialogue shape.
        max_messages: Latest turns kept; ``None`` keeps all.
        val_fraction: Share of the dialogues left out: those that ``FileReplies`` holds out with
            the same share and ``split_seed``.
        split_seed: Another one leaves out other dialogues.
        exclude: Files whose dialogues are left out, before the split, wherever ``paths`` hold
            them too.
    """

    def __init__(
        self,
        paths: list[str],
        max_messages: int | None = None,
        val_fraction: float = 0.0,
        split_seed: int = 0,
        exclude: list[str] | None = None,
    ) -> None:
        check_share("DialogueContexts", val_fraction)
        self.paths = [Path(path) for path in paths]
        self.exclude = [Path(path) for path in exclude or ()]
        self.max_messages = max_messages
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self._contexts: list[Conversation] = []
        self._seed = self._taken = 0

    def start(self, seed: int) -> None:
        self._seed, self._taken = seed, 0
        pairs = read_contexts(
            "DialogueContexts",
            self.paths,
            max_messages=self.max_messages,
            val_fraction=self.val_fraction,
            split_seed=self.split_seed,
            exclude=self.exclude,
        )
        self._contexts = [context for context, _ in pairs]

    def take(self, count: int) -> list[Conversation]:
        taken = []
        for place in range(self._taken, self._taken + count):
            number, index = divmod(place, len(self._contexts))
            order = list(range(len(self._contexts)))
            Random(derive_seed(self._seed, "round", number)).shuffle(order)
            taken.append(self._contexts[order[index]])
        self._taken += count
        return taken

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._taken = state["taken"]


class LiveConversations(ContextStream):
    """On-policy contexts at no extra cost: conversations that the training replies carry on.

    One reply of every group, drawn at random, is said to the seeker, whose answer makes the next
    iteration's context. A conversation that ends is replaced by a new one. So contexts follow the
    policy, and the share of solved conversations is its success rate while sampling.

    Args:
        seeker: Opens and answers.
        critic: Ends a conversation on success.
        max_turns: Supporter turns after which a conversation ends.
    """

    def __init__(self, seeker: Seeker, critic: Critic, max_turns: int = 8) -> None:
        self.seeker = seeker
        self.critic = critic
        self.max_turns = max_turns
        self._live: list[Conversation] = []
        self._limits: list[int] = []
        self._seed = self._opened = 0
        self._ended: list[bool] = []

    def start(self, seed: int) -> None:
        self._seed, self._opened = seed, 0
        self._live, self._limits, self._ended = [], [], []

    def take(self, count: int) -> list[Conversation]:
        while len(self._live) < count:
            # The first ones are broken off at staggered turns, or all would end in step.
            self._limits.append(len(self._live) % self.max_turns + 1)
            self._live.append(self._open())
        return self._live[:count]

    def _open(self) -> Conversation:
        self._opened += 1
        return self.seeker.open([derive_seed(self._seed, "live", self._opened)])[0]

    def observe(self, replies: Sequence[Sequence[Message]]) -> dict[str, float]:
        told = [
            say(state, Random(derive_seed(state.seed, "said", state.num_turns)).choice(group))
            for state, group in zip(self._live, replies, strict=False)
        ]
        answered = self.seeker.answer(told)
        for index, (state, verdict) in enumerate(
            zip(answered, self.critic.judge(answered), strict=True)
        ):
            if verdict.is_success or state.num_turns >= self._limits[index]:
                # Only conversations that could have lasted all turns count as tried.
                if self._limits[index] == self.max_turns:
                    self._ended = [*self._ended, verdict.is_success][-100:]
                self._limits[index], state = self.max_turns, self._open()
            self._live[index] = state
        if not self._ended:
            return {}
        return {"rollout/live_success": sum(self._ended) / len(self._ended)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "live": json.dumps([asdict(state) for state in self._live]),
            "limits": list(self._limits),
            "opened": self._opened,
            "ended": list(self._ended),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._live = [_conversation(fields) for fields in json.loads(state["live"])]
        self._limits, self._opened = list(state["limits"]), state["opened"]
        self._ended = list(state["ended"])


class MixedContexts(ContextStream):
    """Fixed shares of several streams in every iteration.

    Args:
        streams: Streams.
        shares: Share of each, above 0; they sum to 1. The last stream takes what rounding leaves.
    """

    def __init__(self, streams: list[ContextStream], shares: list[float]) -> None:
        if len(streams) != len(shares) or abs(sum(shares) - 1) > 1e-6 or min(shares) <= 0:
            raise UserError(
                f"MixedContexts.shares must be positive, one per stream, and sum to 1; got {shares}"
            )
        self.streams = streams
        self.shares = shares
        self._counts: list[int] = []

    def start(self, seed: int) -> None:
        for index, stream in enumerate(self.streams):
            stream.start(derive_seed(seed, "stream", index))

    def take(self, count: int) -> list[Conversation]:
        counts = [round(share * count) for share in self.shares[:-1]]
        self._counts = [*counts, count - sum(counts)]
        return [
            context
            for stream, part in zip(self.streams, self._counts, strict=True)
            for context in stream.take(part)
        ]

    def observe(self, replies: Sequence[Sequence[Message]]) -> dict[str, float]:
        report: dict[str, float] = {}
        start = 0
        for stream, part in zip(self.streams, self._counts, strict=True):
            report |= stream.observe(replies[start : start + part])
            start += part
        return report

    def state_dict(self) -> dict[str, Any]:
        return {str(index): stream.state_dict() for index, stream in enumerate(self.streams)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for index, stream in enumerate(self.streams):
            stream.load_state_dict(state[str(index)])


def _conversation(fields: dict[str, Any]) -> Conversation:
    messages = tuple(
        Message(**{**message, "critic_answers": tuple(message["critic_answers"])})
        for message in fields["messages"]
    )
    return Conversation(**{**fields, "messages": messages, "hidden": tuple(fields["hidden"])})
