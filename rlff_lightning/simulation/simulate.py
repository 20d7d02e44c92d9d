"""From contexts to labelled replies: a fault costs the context that it struck, and no other."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlff_lightning.agents.base import Supporter
from rlff_lightning.simulation.candidates import CandidateSettings, sample_candidates
from rlff_lightning.simulation.futures import FutureSimulator
from rlff_lightning.types import Conversation, LabelledReply, Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulated:
    """What became of one context."""

    context: Conversation
    """Ends with a seeker's message."""
    replies: tuple[LabelledReply, ...] = ()
    """Its candidates with their labels; empty if it failed, or no candidate had text."""
    failure: str = ""
    """Why it could not be labelled after every retry."""


def simulate(
    contexts: Sequence[Conversation],
    supporter: Supporter,
    settings: CandidateSettings,
    simulator: FutureSimulator,
    human: Sequence[Message | None] | None = None,
) -> list[Simulated]:
    """Sample candidates for every context and label them by their futures, all at once.

    Args:
        contexts: Contexts; one with a ``failure`` stays as it is.
        supporter: Writes the candidates.
        settings: How many candidates, and whose.
        simulator: Labels them.
        human: The data's own reply to each context, if it has one.

    Returns:
        One result per context, in order: all its labelled replies, or the first failure.
    """
    whole = [place for place, context in enumerate(contexts) if not context.failure]
    found = sample_candidates(
        [contexts[place] for place in whole],
        supporter,
        settings,
        None if human is None else [human[place] for place in whole],
    )
    candidates = dict(zip(whole, found, strict=True))
    asked = [
        candidate for own in candidates.values() for candidate in own if not candidate.reply.failure
    ]
    labelled = iter(simulator.label(asked))
    results = []
    for place, context in enumerate(contexts):
        own = candidates.get(place, [])
        failure = context.failure or next((c.reply.failure for c in own if c.reply.failure), "")
        replies = () if failure else tuple(next(labelled) for _ in own)
        failure = failure or next((reply.failure for reply in replies if reply.failure), "")
        results.append(
            Simulated(context=context, replies=() if failure else replies, failure=failure)
        )
    return results
