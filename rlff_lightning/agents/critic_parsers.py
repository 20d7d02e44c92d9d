"""What a critic's words mean: two readings, told apart because they give two success rates."""

import re
from collections.abc import Sequence
from typing import Literal

from rlff_lightning.types import Outcome

Parser = Literal["substring", "negation-aware"]
"""How an answer is read."""

_NOT = (
    r"(?:\bnot|\bnever|n't|\b(?:is|are|was|has|have|do|does|did)nt)\s+"
    # What the negation reaches, up to where something else is said.
    r"(?:(?!only\b|but\b|and\b|though\b|solved\b|resolved\b)\w+\s+){0,3}"
)
_NOT_BETTER = re.compile(_NOT + r"better|\bno better")
_NOT_WORSE = re.compile(_NOT + r"worse|\bno worse")
_NEGATION = re.compile(
    r"\bnot|\bnever\b|\bcannot\b|\bno(?:thing|ne)\b|n't\b|^no\b|\bunsolved\b|\byet to be\b|"
    r"\bfar from\b|\b(?:is|are|was|has|have|do|does|did|ca)nt\b"
)
_APOSTROPHES = str.maketrans("\u2019\u00b4`", "'''")


def parse_substring(answer: str, order: Sequence[Outcome]) -> Outcome:
    """Take the first outcome of ``order`` whose name occurs in the answer.

    The reading of two public code bases. It takes "the issue has not been solved" for solved.

    Args:
        answer: The critic's words.
        order: Outcomes in the order of the search.

    Returns:
        The outcome; ``unparsed`` if none is named.
    """
    text = answer.lower()
    return next((outcome for outcome in order if outcome in text), "unparsed")


def parse_negation_aware(answer: str, order: Sequence[Outcome]) -> Outcome:
    """Read an answer as a person would: not better is the same, and not solved is the same.

    Args:
        answer: The critic's words.
        order: Outcomes in the order of the search; ``solved`` is always looked for last.

    Returns:
        The outcome; ``unparsed`` if none is named.
    """
    text = answer.lower().translate(_APOSTROPHES).strip()
    if _NOT_BETTER.search(text):
        return "same"
    text, num_not_worse = _NOT_WORSE.subn("", text)
    named = parse_substring(text, [outcome for outcome in order if outcome != "solved"])
    if named == "unparsed" and "solved" in order and "solved" in text:
        return "same" if _NEGATION.search(text) else "solved"
    return "same" if named == "unparsed" and num_not_worse else named
