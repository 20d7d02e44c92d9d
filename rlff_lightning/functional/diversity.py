"""How much texts repeat: among each other and within themselves."""

from collections.abc import Sequence


def ngrams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """List a text's n-grams in order; none if the text is shorter."""
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]


def distinct(texts: Sequence[Sequence[str]], size: int) -> float:
    """Share of different n-grams among all n-grams of all texts; 0 without any.

    Args:
        texts: Words of each text.
        size: Words of an n-gram, n.

    Source: Li et al. 2016, arXiv:1510.03055, sec. 5.2 (distinct-1 and distinct-2).

    Example:
        >>> distinct([["how", "are", "you"], ["how", "is", "it"]], 1)
        0.8333333333333334
    """
    grams = [gram for words in texts for gram in ngrams(words, size)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(words: Sequence[str], size: int) -> float:
    """Share of a text's n-grams that it has said before; 0 if it has none.

    rep-n = 1 - |different n-grams| / |n-grams|

    Args:
        words: Words of one text.
        size: Words of an n-gram, n.

    Source: Welleck et al. 2020, arXiv:1908.04319, sec. 6.1 (seq-rep-n).

    Example:
        >>> repetition(["so", "it", "goes", "so", "it"], 2)
        0.25
    """
    grams = ngrams(words, size)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
