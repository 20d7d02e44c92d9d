import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.dialogue.reply_format import parse_reply
from rlff_lightning.dialogue.reply_stream import ReplyStream

WORDS = st.text(alphabet="ab <>/thinktk\n", max_size=20).filter(
    lambda text: not re.search("</?think>", text)
)


def fed(text: str, cuts: list[int], *, is_open: bool = False) -> tuple[ReplyStream, str, str]:
    stream = ReplyStream(is_reasoning_open=is_open)
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    pieces = [p for a, b in pairwise(places) for p in stream.feed(text[a:b])]
    pieces += stream.end()
    reasoning = "".join(piece.text for piece in pieces if piece.kind == "reasoning")
    return stream, reasoning, "".join(piece.text for piece in pieces if piece.kind == "reply")


@given(WORDS, WORDS, st.lists(st.integers(0, 60), max_size=8), st.booleans())
def test_a_streamed_reply_is_what_the_whole_text_parses_to(
    thought: str, said: str, cuts: list[int], is_open: bool
) -> None:
    text = ("" if is_open else "<think>") + f"{thought}</think>{said}"
    stream, reasoning, reply = fed(text, cuts, is_open=is_open)
    assert stream.message == parse_reply(text, is_reasoning_open=is_open)
    assert (reasoning.strip(), reply.strip()) == (stream.message.reasoning, stream.message.text)


@given(WORDS, st.lists(st.integers(0, 30), max_size=5))
def test_without_tags_everything_is_reply_and_an_open_reasoning_is_never_shown(
    text: str, cuts: list[int]
) -> None:
    assert fed(text, cuts)[0].message == parse_reply(text)
    hidden, reasoning, reply = fed(f"<think>{text}", cuts)
    assert reply == hidden.message.text == ""
    assert reasoning.strip() == text.strip()


def test_words_come_before_the_reply_is_complete_and_no_half_tag_is_shown() -> None:
    stream = ReplyStream()
    assert stream.feed("<thi") == []
    assert [piece.kind for piece in stream.feed("nk>calm</thi")] == ["reasoning"]
    assert stream.feed("nk>") == []
    assert [tuple(piece) for piece in stream.feed(" I see. a <")] == [("reply", "I see. a ")]
    assert [piece.text for piece in stream.feed("b")] == ["<b"]
