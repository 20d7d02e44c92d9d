import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.agents.critic_parsers import parse_negation_aware, parse_substring

ORDER = ("worse", "same", "better", "solved")


@pytest.mark.parametrize(
    ("answer", "substring", "negation_aware"),
    [
        ("No, he feels WORSE.", "worse", "worse"),
        ("It is all the same to her", "same", "same"),
        ("No, but she feels better.", "better", "better"),
        ("Yes, it is solved.", "solved", "solved"),
        ("The matter has not been solved.", "solved", "same"),
        ("It hasn't been solved.", "solved", "same"),
        ("It hasn\u2019t been solved.", "solved", "same"),
        ("No, solved it is by no means.", "solved", "same"),
        ("Nothing was solved.", "solved", "same"),
        ("Now it is solved.", "solved", "solved"),
        ("She feels better, but it is not solved.", "better", "better"),
        ("It is not solved, but she feels better.", "better", "better"),
        ("No, he does not feel better.", "better", "same"),
        ("He doesn't feel any better.", "better", "same"),
        ("He is no better.", "better", "same"),
        ("First better, then worse", "worse", "worse"),
        ("No.", "unparsed", "unparsed"),
        ("", "unparsed", "unparsed"),
    ],
)
def test_answers_are_read_as_each_parser_says(
    answer: str, substring: str, negation_aware: str
) -> None:
    assert parse_substring(answer, ORDER) == substring
    assert parse_negation_aware(answer, ORDER) == negation_aware


def test_the_order_of_the_search_decides_between_two_words() -> None:
    assert parse_substring("better, not worse", ("better", "worse")) == "better"
    assert parse_substring("better, not worse", ("worse", "better")) == "worse"


@given(st.text())
def test_any_text_has_a_reading(text: str) -> None:
    assert parse_substring(text, ORDER) in {*ORDER, "unparsed"}
    assert parse_negation_aware(text, ORDER) in {*ORDER, "unparsed"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Not better.", "same"),
        ("The patient isn't better", "same"),
        ("She is not doing any better", "same"),
        ("He hasn\u00b4t gotten better", "same"),
        ("isnt better", "same"),
        ("He does not feel worse, but better.", "better"),
        ("Not worse.", "same"),
        ("Not solved but the patient feels better", "better"),
        ("Not only better, the issue is solved", "better"),
        ("The issue remains unsolved.", "same"),
        ("It has yet to be solved", "same"),
        ("far from solved", "same"),
        ("Not worse: it has been solved", "solved"),
    ],
)
def test_plain_negations_are_read_as_a_person_would(answer: str, expected: str) -> None:
    assert parse_negation_aware(answer, ("worse", "same", "better", "solved")) == expected
