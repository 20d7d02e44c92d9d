import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.dialogue.reply_format import is_well_formed, parse_reply

parts = st.lists(st.sampled_from(["<think>", "</think>", "a", " ", "b c", "\n"]), max_size=8).map(
    "".join
)


@pytest.mark.parametrize(
    ("text", "reasoning", "reply"),
    [
        ("<think>she is sad</think>Tell me.", "she is sad", "Tell me."),
        ("Tell me.", "", "Tell me."),
        ("<think>she is sad", "she is sad", ""),
        ("<think>a</think>b<think>c</think>d", "a</think>b<think>c", "d"),
        ("she is sad</think>Tell me.", "she is sad", "Tell me."),
        ("Tell me.<think>hidden", "hidden", "Tell me."),
        ("", "", ""),
    ],
)
def test_a_reply_is_what_follows_the_reasoning(text: str, reasoning: str, reply: str) -> None:
    message = parse_reply(text)
    assert (message.role, message.reasoning, message.text) == ("supporter", reasoning, reply)


def test_an_opened_prompt_makes_unfinished_output_reasoning() -> None:
    assert parse_reply("she is sad", is_reasoning_open=True).text == ""


@pytest.mark.parametrize(
    ("text", "is_fine"),
    [
        ("<think>a</think>b", True),
        (" <think>a</think>b", False),
        ("<think> </think>b", False),
        ("<think>a</think>\n", False),
        ("<think>a<think>b</think>c", False),
        ("<think>a</think>b</think>c", False),
        ("a</think>b<think>", False),
        ("b", False),
    ],
)
def test_only_one_reasoning_and_one_reply_are_well_formed(text: str, is_fine: bool) -> None:
    assert is_well_formed(text) is is_fine


@given(parts)
def test_a_seeker_never_reads_a_think_token(text: str) -> None:
    reply = parse_reply(text).text
    assert "<think>" not in reply
    assert "</think>" not in reply
    if is_well_formed(text):
        assert reply
        assert parse_reply(text).reasoning
