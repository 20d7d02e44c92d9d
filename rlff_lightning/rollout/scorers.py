"""What a sampled reply is worth: the terms of the reward."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlff_lightning.dialogue.chat import ChatSettings
from rlff_lightning.dialogue.reply_format import is_well_formed
from rlff_lightning.engines.base import Engine, Sampling
from rlff_lightning.errors import UserError
from rlff_lightning.functional.diversity import repetition
from rlff_lightning.types import Conversation, Message

KL_TERM = "kl"
"""Name of the KL to the reference as a term of the reward, which is no scorer's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """A completion of the policy in its context."""

    context: Conversation
    """What the policy replied to."""
    text: str
    """The whole completion, reasoning included."""
    reply: Message
    """The same as others hear it: without reasoning, and without what belongs to no reply."""
    token_ids: tuple[int, ...]
    """As sampled."""
    is_finished: bool
    """It ended by itself, not at the token limit."""


class Learning(NamedTuple):
    """What a scorer may use of the policy that learns."""

    model: nn.Module
    """The policy as it is trained."""
    engine: Engine
    """Samples its replies, with the weights of the latest sync."""
    chat: ChatSettings
    """How conversations are shown to it."""
    sampling: Sampling
    """How its replies are drawn."""


class Scorer(ABC):
    """One term of the reward.

    Args:
        weight: Factor of its scores in the reward.
        name: Another name for the term, for a second scorer of the same kind.
    """

    name: str
    """Names the term in logs: ``rollout/reward/<name>``; no two terms of a reward share it."""

    reads_tokens: bool = False
    """It looks at a completion's token ids, which a reply that nobody sampled does not have."""

    def __init__(self, weight: float = 1.0, name: str | None = None) -> None:
        self.weight = weight
        if name is not None:
            self.name = name

    @abstractmethod
    def score(self, samples: Sequence[Sampled]) -> Tensor:
        """Score completions; siblings are adjacent.

        Returns:
            One number per completion, ``(B,)``, float32, before the weight.
        """

    def report(self) -> dict[str, float]:
        """Give what the term has to log beside its scores, by log key."""
        return {}

    def start(self, device: torch.device) -> None:
        """Load what is needed; called once before the first score."""
        return

    def attach(self, learning: Learning) -> None:
        """Meet the policy that learns, once it is built and before the first score.

        Only a policy stage calls this; where samples are scored without one, nobody does.
        """
        return


def check_scorers(owner: str, scorers: Sequence[Scorer]) -> None:
    """Refuse terms that would hide each other, as each is told by its name.

    Args:
        owner: Whose ``scorers`` they are, for the message.
        scorers: Terms of one reward.

    Raises:
        UserError: If two have one name, or one has that of the KL in the reward.
    """
    names = [scorer.name for scorer in scorers]
    for name in names:
        if names.count(name) > 1 or name == KL_TERM:
            other = "the KL in the reward" if name == KL_TERM else "another term"
            raise UserError(
                f"{owner}.scorers must have names of their own, got {name!r}, which is that of "
                f"{other}; give the scorer a name"
            )


def check_reads_text(owner: str, scorers: Sequence[Scorer]) -> None:
    """Refuse terms of a completion's tokens where replies are known as text alone.

    Args:
        owner: Whose ``scorers`` they are, for the message.
        scorers: Terms of one reward.

    Raises:
        UserError: If one reads token ids.
    """
    for scorer in scorers:
        if scorer.reads_tokens:
            raise UserError(
                f"{owner} must have scorers of a reply's text, got {type(scorer).__name__}: it "
                "reads sampled tokens, which a reply from a file does not have; leave it out"
            )


class FormatScorer(Scorer):
    """-1 for a completion that is not one reasoning and one reply, or was cut off; 0 else.

    Args:
        weight: Size of the penalty.
        name: Another name for the term; ``null`` is ``format``.
    """

    name = "format"

    def score(self, samples: Sequence[Sampled]) -> Tensor:
        fine = [sample.is_finished and is_well_formed(sample.text) for sample in samples]
        return torch.tensor([0.0 if is_fine else -1.0 for is_fine in fine])


class RepetitionScorer(Scorer):
    """Minus the share of a reply's word n-grams that it has said before.

    Args:
        size: Words of an n-gram.
        weight: Factor of the penalty.
        name: Another name for the term; ``null`` is ``repetition``.
    """

    name = "repetition"

    def __init__(self, size: int = 3, weight: float = 1.0, name: str | None = None) -> None:
        super().__init__(weight, name)
        self.size = size

    def score(self, samples: Sequence[Sampled]) -> Tensor:
        return torch.tensor([-repeated_share(sample.reply.text, self.size) for sample in samples])


def repeated_share(text: str, size: int) -> float:
    """Share of a text's word n-grams that it has said before; 0 for one with fewer words.

    Args:
        text: Any text; letter case does not matter.
        size: Words of an n-gram.

    Example:
        >>> repeated_share("so so so", 1)
        0.6666666666666667
    """
    return repetition(text.lower().split(), size)
