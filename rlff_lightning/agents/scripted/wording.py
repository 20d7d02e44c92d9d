"""Put acts and states of mind into words; every choice is drawn from a given generator."""

import re
from random import Random

from rlff_lightning.agents.scripted import phrases
from rlff_lightning.agents.scripted.dynamics import Act, Mind, Temperament

_SLOT = re.compile(r"\{(\w+)\}")


def fill(template: str, topic: str, draw: Random) -> str:
    """Fill a template's slots, ``{topic}`` with the given one."""

    def choose(match: re.Match[str]) -> str:
        slot = match.group(1)
        return topic if slot == "topic" else draw.choice(phrases.SLOTS[slot])

    return _SLOT.sub(choose, template)


def word_reply(act: Act, topic: str, draw: Random) -> str:
    """Write a reply that does ``act`` and, where the act names a problem, names ``topic``."""
    return fill(draw.choice(phrases.REPLIES[act]), topic, draw)


def word_thought(mind: Mind, act: Act) -> str:
    """Write a supporter's reasoning: its reading of the seeker, then what it will do."""
    levels = phrases.THOUGHTS
    return (
        f"{levels['explored'][mind.explored]}, {levels['trust'][mind.trust]}, "
        f"{levels['resists'][mind.resists]}: {act}"
    )


def word_mind(mind: Mind, topic: str, person: Temperament, draw: Random) -> str:
    """Write a seeker's message; each cue of the hidden state shows with ``person.disclosure``."""
    trust = phrases.RESISTS if mind.resists else phrases.TRUST[mind.trust]
    cues = (phrases.EXPLORED[mind.explored], phrases.DISTRESS[mind.distress], trust)
    shown = [draw.choice(cue) for cue in cues if draw.random() < person.disclosure]
    return fill(" ".join(shown) or phrases.SILENCE, topic, draw)
