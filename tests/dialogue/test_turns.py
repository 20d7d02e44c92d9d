from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.dialogue.read import read_dialogues
from rlff_lightning.dialogue.turns import merge_turns, reply_contexts
from rlff_lightning.errors import UserError
from rlff_lightning.types import Dialogue, Message

FIXTURES = Path(__file__).parents[1] / "fixtures"
MESSAGES = st.lists(
    st.builds(Message, role=st.sampled_from(["seeker", "supporter"]), text=st.text(min_size=1)),
    min_size=1,
)


def seeker(text: str, *answers: str) -> Message:
    return Message(role="seeker", text=text, critic_answers=answers)


def supporter(text: str, strategy: str = "", reasoning: str = "") -> Message:
    return Message(role="supporter", text=text, strategy=strategy, reasoning=reasoning)


def test_a_run_becomes_one_turn_with_a_line_per_message() -> None:
    merged = merge_turns([seeker("Hi"), seeker("I am sad"), supporter("Why?"), seeker("Work")])
    assert [turn.text for turn in merged] == ["Hi\nI am sad", "Why?", "Work"]


def test_a_turn_is_judged_by_the_last_answers_of_its_run() -> None:
    (turn,) = merge_turns([seeker("a", "worse"), seeker("b", "same"), seeker("c")])
    assert turn.critic_answers == ("same",)


def test_a_turn_names_each_strategy_of_its_run_once() -> None:
    (turn,) = merge_turns(
        [
            supporter("a", "Question"),
            supporter("b"),
            supporter("c", "Information", "think"),
            supporter("d", "Question", "again"),
        ]
    )
    assert turn.strategy == "Question, Information"
    assert turn.reasoning == "think\nagain"


@given(MESSAGES)
def test_turns_alternate_and_lose_no_text(messages: list[Message]) -> None:
    turns = merge_turns(messages)
    assert all(one.role != other.role for one, other in pairwise(turns))
    assert "\n".join(turn.text for turn in turns) == "\n".join(m.text for m in messages)
    assert merge_turns(turns) == turns


def test_every_answer_to_the_seeker_is_a_context_with_its_reply() -> None:
    dialogue = read_dialogues(FIXTURES / "esconv.json")[0]
    (first, reply), (second, merged_reply) = reply_contexts(dialogue)
    assert [message.text for message in first.messages] == [
        "Hello there\nI cannot sleep because of my shop."
    ]
    assert reply.text == "That sounds heavy. What worries you most?"
    assert len(second.messages) == 3
    assert merged_reply.text.endswith("\nHave you talked to the owner?")
    assert (first.id, second.id) == ("esconv-1/t1", "esconv-1/t2")
    assert first.source == "esconv-1"
    assert (first.situation, first.problem) == (dialogue.situation, "job crisis")
    assert first.seed != second.seed


def test_a_greeting_of_the_supporter_is_context_but_no_reply() -> None:
    dialogue = Dialogue(id="d", messages=(supporter("Hello"), seeker("Hi"), supporter("Well?")))
    ((context, reply),) = reply_contexts(dialogue)
    assert [message.text for message in context.messages] == ["Hello", "Hi"]
    assert context.id == "d/t2"
    assert reply.text == "Well?"


@given(MESSAGES)
def test_contexts_end_with_the_seeker_and_have_ids_of_their_own(messages: list[Message]) -> None:
    pairs = reply_contexts(Dialogue(id="d", messages=tuple(messages)))
    assert all(context.messages[-1].role == "seeker" for context, _ in pairs)
    assert all(reply.role == "supporter" for _, reply in pairs)
    assert len({context.id for context, _ in pairs}) == len(pairs)


def test_a_shorter_context_keeps_its_latest_turns_and_its_id() -> None:
    dialogue = read_dialogues(FIXTURES / "esconv.json")[0]
    whole = reply_contexts(dialogue)[1][0]
    short = reply_contexts(dialogue, max_messages=2)[1][0]
    assert short.messages == whole.messages[-2:]
    assert (short.id, short.seed) == (whole.id, whole.seed)


def test_a_context_of_no_message_is_refused() -> None:
    with pytest.raises(UserError, match="max_messages must be >= 1"):
        reply_contexts(Dialogue(id="d", messages=(seeker("Hi"),)), max_messages=0)
