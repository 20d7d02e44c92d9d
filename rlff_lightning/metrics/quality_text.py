"""Likeness of one reply to one reference, by the libraries that define each measure."""

from collections.abc import Callable
from functools import cache
from typing import Any

from torchmetrics.functional.text.rouge import rouge_score

from rlff_lightning.errors import UserError

Likeness = Callable[[str, str], float]
"""Takes a reply and its reference; 0 is unlike, 1 the same."""


def words(text: str) -> list[str]:
    """Split lower-cased text into runs of letters and digits, and runs of punctuation."""
    # NLTK takes a second to import, and only these measures need it.
    from nltk.tokenize import wordpunct_tokenize

    found: list[str] = wordpunct_tokenize(text.lower())
    return found


def rouge_l(reply: str, reference: str) -> float:
    """F1 of the longest common subsequence of words, lower-cased, not stemmed.

    Source: Lin 2004, ACL W04-1013, sec. 3; words as Google's rouge-score splits them.
    """
    return rouge_score(reply, reference, rouge_keys="rougeL")["rougeL_fmeasure"].item()


def meteor_without_synonyms(reply: str, reference: str) -> float:
    """METEOR by its exact and stem stages: synonyms count as different words.

    It is at most METEOR, and must be named apart from it.

    Source: Lavie & Agarwal 2007, ACL W07-0734, as NLTK computes it.
    """
    return _meteor(reply, reference, wordnet=_NoSynonyms())


def meteor_with_synonyms(reply: str, reference: str) -> float:
    """METEOR with all of its stages; needs NLTK's WordNet data.

    Raises:
        UserError: If the data are not installed.

    Source: Lavie & Agarwal 2007, ACL W07-0734, as NLTK computes it.
    """
    _check_wordnet()
    return _meteor(reply, reference)


def _meteor(reply: str, reference: str, **options: Any) -> float:
    from nltk.translate.meteor_score import single_meteor_score

    return float(single_meteor_score(words(reference), words(reply), **options))


@cache
def _check_wordnet() -> None:
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError as error:
        raise UserError(
            "METEOR with synonyms needs NLTK's WordNet data, found none; run `python -m "
            "nltk.downloader wordnet`, or leave use_wordnet false"
        ) from error


class _NoSynonyms:
    """A WordNet in which no word has a synonym."""

    def synsets(self, word: str) -> list[object]:
        return []
