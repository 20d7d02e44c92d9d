from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.functional.diversity import distinct, repetition

WORDS = st.lists(st.sampled_from("abcd"), max_size=12)


def test_distinct_counts_different_pairs_within_texts_only() -> None:
    # Pairs: "a b", "b a", "a b" and "b c": three of four differ; "a a" across texts is none.
    assert distinct([["a", "b", "a"], ["a", "b", "c"]], 2) == 0.75
    assert distinct([["a"], []], 2) == 0.0


def test_repetition_counts_pairs_said_before() -> None:
    # "a b", "b a", "a b", "b a": two of four were said before.
    assert repetition(["a", "b", "a", "b", "a"], 2) == 0.5
    assert repetition(["a", "b"], 3) == 0.0


@given(WORDS, st.integers(1, 4))
def test_a_text_said_twice_is_half_as_distinct_and_repeats_no_more(
    text: list[str], size: int
) -> None:
    assert distinct([text, text], size) == distinct([text], size) / 2
    assert 0 <= repetition(text, size) < 1


@given(WORDS.filter(bool), st.integers(1, 3))
def test_what_is_not_distinct_within_a_text_is_repeated(text: list[str], size: int) -> None:
    if len(text) >= size:
        assert repetition(text, size) == 1 - distinct([text], size)
