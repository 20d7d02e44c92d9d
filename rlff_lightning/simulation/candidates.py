"""Candidate replies: the policy's or the data's own, thinned to the ones that differ most."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rlff_lightning.agents.base import Supporter
from rlff_lightning.agents.joint import joint_supporter
from rlff_lightning.errors import UserError
from rlff_lightning.seeds import derive_seed
from rlff_lightning.simulation.futures import Candidate
from rlff_lightning.types import Conversation, Message


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateSettings:
    """How many replies are tried per context, and whose."""

    num_candidates: int = 4
    """Replies kept per context."""
    num_samples: int = 4
    """Replies sampled per context, of which the kept ones differ most."""
    origins: Literal["policy", "human", "both"] = "policy"
    """Sampled from the supporter, the data's own reply, or the data's reply among sampled ones."""
    proposer: Supporter | None = None
    """Writes replies of another kind, so that it is known what those lead to that the supporter
    hardly ever gives."""
    num_proposed: int = 0
    """Replies of the proposer per context, beside the kept ones."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_candidates <= self.num_samples:
            raise UserError(
                "CandidateSettings.num_candidates must be within [1, num_samples], got "
                f"{self.num_candidates} with num_samples={self.num_samples}"
            )
        if self.num_proposed < 0 or (self.num_proposed > 0) != (self.proposer is not None):
            raise UserError(
                "CandidateSettings.num_proposed must be at least 1 with a proposer and 0 without "
                f"one, got {self.num_proposed}"
            )


def sample_candidates(
    contexts: Sequence[Conversation],
    supporter: Supporter,
    settings: CandidateSettings,
    human: Sequence[Message | None] | None = None,
) -> list[list[Candidate]]:
    """Sample candidates for every context and keep a varied few.

    Args:
        contexts: Each ends with a seeker's message.
        supporter: Who writes them, usually the warm-started policy.
        settings: How many, and whose.
        human: The data's own reply to each context, if it has one; needed where ``origins`` asks
            for it, and then the first candidate.

    Returns:
        Each context's candidates; a reply without text is none. Where a reply could not be had
        after every retry it is the only candidate, for fewer samples would be another draw.
    """
    own: list[list[Candidate]] = [[] for _ in contexts]
    if settings.origins != "policy" and human is not None:
        for place, (context, reply) in enumerate(zip(contexts, human, strict=True)):
            if reply is not None:
                own[place].append(Candidate(context=context, reply=reply, origin="human"))
    if settings.origins != "human":
        for place, sampled in enumerate(_sample(contexts, supporter, settings.num_samples)):
            own[place] += sampled
    kept = [_thin(candidates, settings.num_candidates) for candidates in own]
    if settings.proposer is None:
        return kept
    proposer = joint_supporter(settings.proposer)
    proposed = _sample(contexts, proposer, settings.num_proposed, "proposer")
    return [
        _first_failure([*mine, *others]) or _distinct([*mine, *others])
        for mine, others in zip(kept, proposed, strict=True)
    ]


def _sample(
    contexts: Sequence[Conversation],
    supporter: Supporter,
    count: int,
    origin: Literal["policy", "proposer"] = "policy",
) -> list[list[Candidate]]:
    name = "candidate" if origin == "policy" else "proposal"
    asked = [
        replace(context, seed=derive_seed(context.seed, name, copy))
        for context in contexts
        for copy in range(count)
    ]
    replies = supporter.reply(asked) if asked else []
    return [
        [
            Candidate(context=context, reply=reply, origin=origin)
            for reply in replies[place : place + count]
        ]
        for context, place in zip(contexts, range(0, len(replies), count), strict=True)
    ]


def _first_failure(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if candidate.reply.failure][:1]


def _distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    first: dict[str, Candidate] = {}
    for candidate in candidates:
        if candidate.reply.text:
            first.setdefault(candidate.reply.text, candidate)
    return list(first.values())


def _thin(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    failed = _first_failure(candidates)
    if failed:
        return failed
    human = [candidate for candidate in candidates if candidate.origin == "human"]
    # A key keeps its first place and its last value: the policy may say what the human said.
    by_text = {candidate.reply.text: candidate for candidate in (*candidates, *human)}
    chosen = most_different([candidate.reply for candidate in by_text.values()], count)
    return [by_text[reply.text] for reply in chosen]


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
