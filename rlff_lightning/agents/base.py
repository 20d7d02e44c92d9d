"""The three roles of a simulated conversation, each answering many conversations in one call."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from rlff_lightning.agents.counts import Counts
from rlff_lightning.types import Conversation, Message, Verdict


class Supporter(ABC):
    """Replies to seekers."""

    counts: Counts = Counts()
    """What was used up so far; an agent that calls a model adds to it."""
    fingerprint: str = ""
    """What decides its words beyond its settings, e.g. the hash of its prompts."""

    @property
    def is_greedy(self) -> bool:
        """Whether it gives a conversation the same reply each time, whatever its seed."""
        return False

    @property
    def is_concurrent(self) -> bool:
        """Whether several threads may be within its calls, though one runs at a time.

        True of an agent that waits for nothing, or by ``engines.waiting.wait_for`` alone, as the
        project's engines and servers do. Others are asked by one thread, for all that wait for
        them.
        """
        return False

    @abstractmethod
    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        """Write the next supporter message of each conversation, which ends with a seeker's."""

    def start(self) -> None:
        """Set up what the processes of a run must set up in the same step, if anything."""
        return

    def close(self) -> None:
        """Free what the supporter holds."""
        return


class Seeker(ABC):
    """Plays the people who look for support."""

    counts: Counts = Counts()
    """What was used up so far; an agent that calls a model adds to it."""
    fingerprint: str = ""
    """What decides its words beyond its settings, e.g. the hash of its prompts."""

    @property
    def is_concurrent(self) -> bool:
        """As of a supporter."""
        return False

    @abstractmethod
    def open(self, seeds: Sequence[int]) -> list[Conversation]:
        """Begin one conversation per seed, each with its opening message."""

    @abstractmethod
    def answer(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        """Append the seeker's answer to each conversation; each ends with a supporter's message."""

    def start(self) -> None:
        """Set up what the processes of a run must set up in the same step, if anything."""
        return

    def close(self) -> None:
        """Free what the seeker holds."""
        return


class Critic(ABC):
    """Judges how the seeker fares."""

    counts: Counts = Counts()
    """What was used up so far; an agent that calls a model adds to it."""
    fingerprint: str = ""
    """What decides its words beyond its settings, e.g. the hash of its prompts."""

    @property
    def is_concurrent(self) -> bool:
        """As of a supporter."""
        return False

    @abstractmethod
    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """Judge the latest seeker message of each conversation, which it ends with."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The judge's name and rule, as every reported success rate must state it."""

    def start(self) -> None:
        """Set up what the processes of a run must set up in the same step, if anything."""
        return

    def close(self) -> None:
        """Free what the critic holds."""
        return


class Cast(NamedTuple):
    """Who plays in a conversation."""

    supporter: Supporter
    seeker: Seeker
    critic: Critic
