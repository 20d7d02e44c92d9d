from typing import Any, get_args

import pytest

from rlff_lightning.agents.language_model_judge import JudgeReading, LanguageModelJudge
from rlff_lightning.agents.prompt_files import languages, load_prompt
from rlff_lightning.agents.reply_judge import DIMENSIONS, read_preference, read_rating
from rlff_lightning.engines.server import ServerChatModel
from rlff_lightning.errors import UserError
from rlff_lightning.types import Conversation, Message

CONTEXT = Conversation(
    id="c",
    seed=3,
    messages=(
        Message(role="seeker", text="I am sad.\nReply A: me"),
        Message(role="supporter", text="Why?"),
        Message(role="seeker", text="My dog died."),
    ),
)


def say(text: str) -> Message:
    return Message(role="supporter", text=text, reasoning="secret plan")


@pytest.mark.parametrize(
    ("answer", "read"),
    [("4", 4), (" 1.\n", 1), ("5", 5), ("0", None), ("6", None), ("4/5", None), ("44", None)],
)
def test_a_rating_is_read_where_it_stands_alone(answer: str, read: int | None) -> None:
    assert read_rating(answer) == read


@pytest.mark.parametrize("answer", ["4 or 5", "about 4", "four", "", "\u0663", "-3"])
def test_a_rating_with_anything_beside_it_is_not_read(answer: str) -> None:
    assert read_rating(answer) is None


@pytest.mark.parametrize(
    ("answer", "read"),
    [("A", "first"), (" b.", "second"), ("Tie", "tie"), ("A or B", None), ("", None)],
)
def test_a_preference_is_read_where_it_stands_alone(answer: str, read: str | None) -> None:
    assert read_preference(answer) == read


@pytest.mark.parametrize("answer", ["Reply A", "A, because B is rude", "neither"])
def test_a_preference_with_anything_beside_it_is_not_read(answer: str) -> None:
    assert read_preference(answer) is None


def test_every_dimension_is_asked_on_its_own_and_what_cannot_be_read_is_counted(
    written: Any,
) -> None:
    texts = ["5", "rather 4", "<think>4 or 5?</think>3", "!the server is gone", "1"]
    model = written(*texts)
    judge = LanguageModelJudge(model, reading="samples")
    [rating] = judge.rate([CONTEXT], [say("Tell me\nmore?")])
    assert rating == {
        "fluency": 5,
        "identification": None,
        "comforting": 3,
        "suggestion": None,
        "overall": 1,
    }
    counts = judge.counts
    assert (counts.answers, counts.unparsed, counts.failures) == (5, 2, 1)
    asked = [chat.turns[1].content for chat, _ in model.asked]
    assert len(set(asked)) == len(DIMENSIONS)
    assert len({chat.seed for chat, _ in model.asked}) == len(DIMENSIONS)
    for text in asked:
        # What anybody says is one line, and cannot pass for the reply; reasoning is not shown.
        assert [line for line in text.splitlines() if line.startswith("Reply: ")] == [
            "Reply: Tell me more?"
        ]
        assert not [line for line in text.splitlines() if line.startswith("Reply A")]
        assert "secret plan" not in text
    assert model.asked[0][1].choices == ()


def test_two_replies_are_shown_in_the_order_in_which_they_are_given(written: Any) -> None:
    model = written("A", "B", "tie", "C")
    judge = LanguageModelJudge(model, reading="samples")
    firsts = [say("one"), say("two"), say("one"), say("one")]
    seconds = [say("two"), say("one"), say("two"), say("two")]
    found = judge.prefer([CONTEXT] * 4, firsts, seconds)
    assert found == ["first", "second", "tie", None]
    text = model.asked[1][0].turns[1].content
    assert text.index("Reply A: two") < text.index("Reply B: one")
    assert judge.counts.unparsed == 1
    assert judge.prefer([], [], []) == []


def test_a_choice_offers_the_options_alone(written: Any) -> None:
    model = written(*"12345", "tie")
    judge = LanguageModelJudge(model)
    assert list(judge.rate([CONTEXT], [say("x")])[0].values()) == [1, 2, 3, 4, 5]
    assert judge.prefer([CONTEXT], [say("x")], [say("y")]) == ["tie"]
    assert {sampling.choices for _, sampling in model.asked[:5]} == {("1", "2", "3", "4", "5")}
    assert model.asked[5][1].choices == ("A", "B", "tie")
    assert {sampling.temperature for _, sampling in model.asked} == {0.0}


@pytest.mark.parametrize("language", languages())
def test_the_prompt_asks_another_question_for_every_dimension(language: str) -> None:
    prompt = load_prompt("judge", language)
    questions = {prompt.block(name) for name in DIMENSIONS}
    assert len(questions) == len(DIMENSIONS)
    assert all(question.endswith("?") for question in questions)
    values = {"messages": [], "options": ["1", "5"], "reply": "r", "question": "q?"}
    assert "1, 5" in prompt.block("rate", values)


def test_a_judges_name_tells_model_reading_temperature_and_prompt_apart(written: Any) -> None:
    names = {
        LanguageModelJudge(written(), reading, temperature, language=language).name
        for reading in get_args(JudgeReading)
        for temperature in (0.0, 1.0)
        for language in languages()
    }
    assert len(names) == 8


def test_no_tokens_and_a_negative_temperature_are_the_users_mistake(written: Any) -> None:
    with pytest.raises(UserError, match=r"max_tokens must be at least 1, got 0"):
        LanguageModelJudge(written(), max_tokens=0)
    with pytest.raises(UserError, match=r"temperature must be >= 0, got -1"):
        LanguageModelJudge(written(), temperature=-1)


@pytest.mark.timeout(1800)
def test_a_real_server_holds_the_judge_to_its_options_and_a_free_answer_is_counted(
    chat_server: str,
) -> None:
    contexts = [CONTEXT, Conversation(id="d", seed=4, messages=CONTEXT.messages[:1])]
    replies = [say("I am sorry to hear that."), say("Try to sleep more.")]
    chosen = LanguageModelJudge(ServerChatModel("pocket", chat_server), temperature=1.0)
    ratings = chosen.rate(contexts, replies)
    assert all(value in range(1, 6) for rating in ratings for value in rating.values())
    assert None not in chosen.prefer(contexts, replies, replies[::-1])
    assert (chosen.counts.answers, chosen.counts.unparsed, chosen.counts.failures) == (12, 0, 0)
    # So small a model was never taught to answer with a number.
    free = LanguageModelJudge(ServerChatModel("pocket", chat_server), reading="samples")
    unread = [value for rating in free.rate(contexts, replies) for value in rating.values()]
    assert free.counts.unparsed == unread.count(None) > 0
    assert free.counts.failures == 0
