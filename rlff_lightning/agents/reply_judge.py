"""Who says how good single replies are, and how the answers are read."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from rlff_lightning.agents.counts import Counts
from rlff_lightning.functional.preferences import Preference
from rlff_lightning.types import Conversation, Message

Dimension = Literal["fluency", "identification", "comforting", "suggestion", "overall"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
"""What a reply is rated on.

Source: Liu et al. 2021, arXiv:2106.01144, sec. 6 (the five questions of their human evaluation).
"""

RATINGS = ("1", "2", "3", "4", "5")
"""Answers to a question of a dimension, from not at all to very much so."""

PREFERENCES = ("A", "B", "tie")
"""Answers to which of two replies is better."""

Rating = Mapping[str, int | None]
"""1 to 5 by dimension; ``None`` where the answer could not be read, or none came."""


class ReplyJudge(ABC):
    """Judges single replies."""

    counts: Counts = Counts()
    """What was used up so far, and answers that could not be read."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The judge's name and settings, as every reported figure must state them."""

    @abstractmethod
    def rate(self, contexts: Sequence[Conversation], replies: Sequence[Message]) -> list[Rating]:
        """Rate the reply to each context on every dimension."""

    @abstractmethod
    def prefer(
        self,
        contexts: Sequence[Conversation],
        firsts: Sequence[Message],
        seconds: Sequence[Message],
    ) -> list[Preference | None]:
        """Say which of two replies to each context is better, in this order of the two.

        Returns:
            One preference per context; ``None`` where the answer could not be read.
        """

    def start(self) -> None:
        """Set up what the processes of a run must set up in the same step, if anything."""
        return

    def close(self) -> None:
        """Free what the judge holds."""
        return


def read_rating(answer: str) -> int | None:
    """Read a number from 1 to 5 that stands alone; "4/5" and "about 4" are not read."""
    found = re.fullmatch(r"([1-5])\.?", answer.strip())
    return int(found[1]) if found else None


def read_preference(answer: str) -> Preference | None:
    """Read A, B or tie, standing alone, letter case aside."""
    read: dict[str, Preference] = {"a": "first", "b": "second", "tie": "tie"}
    return read.get(answer.strip().removesuffix(".").casefold())
