"""Candidate replies: sampled from a supporter, thinned to the ones that differ most."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlff_lightning.agents.base import Supporter
from rlff_lightning.errors import UserError
from rlff_lightning.seeds import derive_seed
from rlff_lightning.simulation.futures import Candidate
from rlff_lightning.types import Conversation, Message


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateSettings:
    """How many replies are tried per context."""

    num_candidates: int = 4
    """Replies kept per context."""
    num_samples: int = 4
    """Replies sampled per context, of which the kept ones differ most."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_candidates <= self.num_samples:
            raise UserError(
                "CandidateSettings.num_candidates must be within [1, num_samples], got "
                f"{self.num_candidates} with num_samples={self.num_samples}"
            )


def sample_candidates(
    contexts: Sequence[Conversation], supporter: Supporter, settings: CandidateSettings
) -> list[Candidate]:
    """Sample candidates for every context and keep a varied few.

    Args:
        contexts: Each ends with a seeker's message.
        supporter: Who writes them, usually the warm-started policy.
        settings: How many.

    Returns:
        Candidates, those of a context adjacent; a reply without text is no candidate.
    """
    asked = [
        replace(context, seed=derive_seed(context.seed, "candidate", copy))
        for context in contexts
        for copy in range(settings.num_samples)
    ]
    replies = supporter.reply(asked)
    candidates = []
    for index, context in enumerate(contexts):
        own = replies[index * settings.num_samples : (index + 1) * settings.num_samples]
        for reply in most_different(own, settings.num_candidates):
            candidates.append(Candidate(context=context, reply=reply))
    return candidates


def most_different(replies: Sequence[Message], count: int) -> list[Message]:
    """Choose replies that share few words, greedily, beginning with the first.

    Each next reply has the largest distance to the nearest one chosen; the distance of two replies
    is 1 minus the Jaccard overlap of their words. Equal texts are chosen once.

    Args:
        replies: Sampled replies; empty ones are never chosen.
        count: How many to choose at most.

    Returns:
        Up to ``count`` replies with different texts.
    """
    distinct = list({reply.text: reply for reply in replies if reply.text}.values())
    words = [frozenset(reply.text.lower().split()) for reply in distinct]
    chosen: list[int] = []
    while distinct and len(chosen) < min(count, len(distinct)):
        rest = [index for index in range(len(distinct)) if index not in chosen]
        nearest = {
            index: min((_distance(words[index], words[other]) for other in chosen), default=0.0)
            for index in rest
        }
        chosen.append(max(rest, key=lambda index: (nearest[index], -index)))
    return [distinct[index] for index in chosen]


def _distance(one: frozenset[str], other: frozenset[str]) -> float:
    return 1 - len(one & other) / max(len(one | other), 1)
