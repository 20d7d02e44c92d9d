"""What a model wrote beyond its own message is cut; what it could not finish is dropped."""

import re
from collections.abc import Sequence
from typing import NamedTuple

# Not the number of a list's item. Quotations end „so“ or »so« as well.
_SENTENCE_END = re.compile(
    r"""(?m:(?<!^\d)(?<!^\d\d))(?:[.!?…]+["'”’“‘»«)\]*]*(?=\s|\Z)|[。！？]+[」』”]*)"""  # noqa: RUF001
)
_ENDED = r"(?:(?<=[.!?…。！？\"”)])|(?<=[.!?…][“‘’'»«])|(?<=[。！？][」』]))"  # noqa: RUF001
_CONTROL = r"(?i:<\|[^\s|<>]+\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\])"


class Tidied(NamedTuple):
    """A message, and what was done to it."""

    text: str
    """What is left; may be empty."""
    is_cut: bool
    """The speaker had gone on as someone else, or put a name before the message."""
    is_shortened: bool
    """The last sentence was not finished."""


def tidy(
    text: str, labels: Sequence[str], *, is_finished: bool, keeps_only_sentence: bool = False
) -> Tidied:
    """Keep one speaker's own, finished sentences.

    A name before the message is taken off. From the next ``Name:`` at the beginning of a line or
    behind a sentence, or from the next control token, all is cut. If the text ran into the token
    limit and nothing was cut, the words behind the last finished sentence are dropped.

    Args:
        text: A model's answer without its reasoning.
        labels: Names that begin a speaker's line.
        is_finished: The model ended by itself.
        keeps_only_sentence: A sentence that nothing precedes is kept, finished or not.

    Returns:
        What is left, stripped.
    """
    names = "|".join(map(re.escape, sorted(labels, key=len, reverse=True)))
    # **Seeker:**, SEEKER:, [Seeker]: and "- Seeker:" name the same speaker.
    # "Berater:innen" is a word, and "Berater:in:" a name.
    name = rf"(?:{names})(?:[:*_]in(?:nen)?)?"
    colon = r"\s*[:：](?!in(?:nen)?\b)"  # noqa: RUF001
    label = rf"(?i:(?:-\s+)?\[?\*{{0,2}}{name}\*{{0,2}}\]?{colon}\*{{0,2}})"
    text = text.strip()
    own = re.sub(rf"\A(?:{label}\s*)", "", text) if labels else text
    other = rf"(?m:^\s*{label})|{_ENDED}\s*{label}|{_CONTROL}"
    bleeding = re.search(other if labels else _CONTROL, own)
    kept = own[: bleeding.start()].strip() if bleeding else own
    is_cut = len(kept) < len(text)
    if is_finished or bleeding:
        return Tidied(kept, is_cut, False)
    ends = [match.end() for match in _SENTENCE_END.finditer(kept)]
    nothing = kept if keeps_only_sentence else ""
    whole = kept[: ends[-1]] if ends else nothing
    return Tidied(whole, is_cut, len(whole) < len(kept))
