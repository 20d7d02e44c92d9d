"""What a critic's words mean: two readings, told apart because they give two success rates."""

import re
from collections.abc import Sequence
from typing import Literal

from rlff_lightning.types import Outcome

Parser = Literal["substring", "negation-aware"]
"""How an answer is read."""

_NOT_BETTER = re.compile(
    r"(?:\bnot|\bnever|n't) (?:\w+ )?(?:feel|feels|feeling|felt) (?:\w+ )?better|\bno better"
)
_NEGATION = re.compile(r"\bnot|\bnever\b|\bcannot\b|\bno(?:thing|ne)\b|n't\b|^no\b")


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
    text = answer.lower().replace("\u2019", "'").strip()
    if _NOT_BETTER.search(text):
        return "same"
    named = parse_substring(text, [outcome for outcome in order if outcome != "solved"])
    if named == "unparsed" and "solved" in order and "solved" in text:
        return "same" if _NEGATION.search(text) else "solved"
    return named
