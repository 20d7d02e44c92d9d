"""Recognise what a reply does from its wording, as the scripted seeker does."""

import re
from typing import NamedTuple

from rlff_lightning.agents.scripted.dynamics import Act
from rlff_lightning.agents.scripted.phrases import TOPICS

MAX_WORDS = 40
"""A longer reply is read as small talk: nobody listens to a speech."""

_CUES: dict[Act, re.Pattern[str]] = {
    "question": re.compile(r"\b(what|when|can you tell me|how (did|do|was|is))\b[^.!?]*\?"),
    "restate": re.compile(r"\b(you are saying|if i hear you right|in other words)\b"),
    "reflect": re.compile(r"\b(it sounds like|i can hear how|you must feel)\b"),
    "reassure": re.compile(r"\b(you are not alone|doing your best|i believe in you)\b"),
    "disclose": re.compile(r"\b(i have been through|happened to me|i felt \w+ too)\b"),
    "inform": re.compile(r"\b(studies show|many people|experts say)\b"),
    "suggest": re.compile(r"\b(you could|how about|maybe (start|try))\b"),
}
_TOPIC = re.compile(rf"\b({'|'.join(TOPICS)})\b")


class Reading(NamedTuple):
    """A reply as the seeker reads it."""

    act: Act
    topics: frozenset[str]
    """Problems that the reply names."""


def read_reply(text: str) -> Reading:
    """Recognise the one act of a reply; none, several, or a speech of cues is small talk.

    Args:
        text: The reply without its reasoning.

    Returns:
        The act and the topics named. A reply that shows the cues of several acts, repeats a word
        three times in a row or exceeds ``MAX_WORDS`` words is read as ``other``.
    """
    lowered = text.lower()
    words = re.findall(r"\w+", lowered)
    topics = frozenset(_TOPIC.findall(lowered))
    is_babble = any(a == b == c for a, b, c in zip(words, words[1:], words[2:], strict=False))
    found = [act for act, cue in _CUES.items() if cue.search(lowered)]
    if len(found) != 1 or len(words) > MAX_WORDS or is_babble:
        return Reading("other", topics)
    return Reading(found[0], topics)
