"""How the scripted seeker's hidden state changes: one table for sampling and for planning.

The three stages of helping (exploration, comforting, action) are built in: until enough has been
explored comfort is hollow, and advice given before trust relieves at once but makes the seeker
resist, so that the immediately best reply is not the best reply.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal, NamedTuple

from rlff_lightning.errors import UserError

Act = Literal[
    "question", "restate", "reflect", "reassure", "disclose", "inform", "suggest", "other"
]
"""What a reply does: ESConv's eight strategies."""

ACTS: tuple[Act, ...] = (
    "question",
    "restate",
    "reflect",
    "reassure",
    "disclose",
    "inform",
    "suggest",
    "other",
)
MAX_DISTRESS, MAX_TRUST, MAX_EXPLORED = 5, 2, 2

Change = Literal["worse", "same", "better", "solved"]
"""What a turn did to the seeker."""


class Mind(NamedTuple):
    """Hidden state of a seeker who still has the problem."""

    distress: int
    """1 to 5."""
    trust: int
    """0 to 2."""
    explored: int
    """How much of the problem is on the table, 0 to 2."""
    resists: int
    """1 after advice that came too early."""


class Transition(NamedTuple):
    """One possible outcome of a reply."""

    probability: float
    mind: Mind
    change: Change


@dataclass(frozen=True, kw_only=True, slots=True)
class Temperament:
    """Knobs of a scripted seeker. The defaults are the world that the demo is about."""

    resistance: float = 0.9
    """Probability that early advice makes the seeker resist."""
    disclosure: float = 0.95
    """Probability that each cue of the hidden state shows in a message."""
    patience: float = 0.5
    """At 1 a useless reply never hurts; from 0.5 down it hurts as often as the table says."""
    noise: float = 0.0
    """Probability that the seeker misreads a reply as small talk."""

    def __post_init__(self) -> None:
        for name in ("resistance", "disclosure", "patience", "noise"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(f"Temperament.{name} must be within [0, 1], got {value!r}")


MINDS: tuple[Mind, ...] = tuple(
    Mind(*levels)
    for levels in product(
        range(1, MAX_DISTRESS + 1), range(MAX_TRUST + 1), range(MAX_EXPLORED + 1), range(2)
    )
)
OPENINGS: tuple[tuple[float, Mind], ...] = tuple(
    (0.5 * weight, Mind(distress, trust, 0, 0))
    for distress in (3, 4)
    for trust, weight in ((0, 0.8), (1, 0.2))
)
"""Probability and state in which people arrive."""


def _shifts(
    mind: Mind, act: Act, on_topic: bool, person: Temperament
) -> dict[str, dict[int, float]]:
    """Independent changes of each part of the mind: part -> {shift: probability}."""
    _, trust, explored, resists = mind
    hurt = min(1.0, 2 * (1 - person.patience))
    ease = 0.25 if resists else 1.0
    if act == "question":
        return {"explored": {1: 0.95}} if explored < MAX_EXPLORED else {"trust": {-1: 0.4}}
    if act == "restate":
        if on_topic and explored == 1:
            return {"explored": {1: 0.6}}
        return {} if on_topic and explored else {"distress": {1: 0.4 * hurt}}
    if act in ("reflect", "reassure"):
        relief, bond = (0.8, 0.95) if act == "reflect" else (0.5, 0.4)
        hollow = (0.6, 0.4, 0.0)[explored] * (1.0 if act == "reflect" else 0.7) * hurt
        relief *= (0.0, 0.2, 1.0)[explored]
        shifts = {"distress": {-1: relief, 1: (1 - relief) * hollow}}
        if trust < explored:
            shifts["trust"] = {1: bond * (0.0, 0.3, 1.0)[explored] * ease}
        return shifts
    if act == "disclose":
        shifts = {"distress": {1: 0.2 * hurt}}
        if trust < max(explored, 1):
            shifts["trust"] = {1: 0.15 * ease}
        return shifts
    if act == "inform":
        is_welcome = on_topic and explored >= 1 and trust >= 1
        return {"distress": {-1: 0.4} if is_welcome else {1: 0.3 * hurt}}
    if act == "suggest":
        return {
            "distress": {-1: 0.15 if resists else 0.75},
            "trust": {-1: 1.0},
            "resists": {1: person.resistance},
        }
    return {"distress": {1: 0.35 * hurt}}


def is_ready(mind: Mind) -> bool:
    """Say whether on-topic advice can now solve the problem."""
    return mind.trust == MAX_TRUST and mind.explored == MAX_EXPLORED and not mind.resists


@cache
def transitions(
    mind: Mind, act: Act, on_topic: bool, person: Temperament
) -> tuple[Transition, ...]:
    """List what a reply may do to a seeker.

    Args:
        mind: Hidden state before the reply.
        act: What the reply does, as the seeker reads it.
        on_topic: Whether it speaks to this seeker's problem.
        person: The seeker's temperament.

    Returns:
        Outcomes whose probabilities sum to 1. ``solved`` keeps the mind as it was.
    """
    if person.noise and act != "other":
        read = _outcomes(mind, act, on_topic, person)
        misread = _outcomes(mind, "other", on_topic, person)
        return tuple(
            [o._replace(probability=o.probability * (1 - person.noise)) for o in read]
            + [o._replace(probability=o.probability * person.noise) for o in misread]
        )
    return tuple(_outcomes(mind, act, on_topic, person))


def _outcomes(mind: Mind, act: Act, on_topic: bool, person: Temperament) -> list[Transition]:
    if act == "suggest" and on_topic and is_ready(mind):
        return [Transition(0.9, mind, "solved"), Transition(0.1, mind, "same")]
    shifts = dict(_shifts(mind, act, on_topic, person))
    if mind.resists:
        shifts["frustration"] = {1: 0.8}
    options = [[*shift.items(), (0, 1 - sum(shift.values()))] for shift in shifts.values()]
    outcomes = []
    for combination in product(*options):
        probability = 1.0
        for _, weight in combination:
            probability *= weight
        if probability <= 0:
            continue
        delta = dict(zip(shifts, (shift for shift, _ in combination), strict=True))
        distress = max(-1, min(1, delta.get("distress", 0) + delta.get("frustration", 0)))
        after = Mind(
            min(MAX_DISTRESS, max(1, mind.distress + distress)),
            min(MAX_TRUST, max(0, mind.trust + delta.get("trust", 0))),
            min(MAX_EXPLORED, mind.explored + delta.get("explored", 0)),
            max(mind.resists, delta.get("resists", 0)),
        )
        felt: Change = "worse" if distress > 0 else "same"
        if after.distress < mind.distress:
            felt = "better"
        outcomes.append(Transition(probability, after, felt))
    return outcomes
