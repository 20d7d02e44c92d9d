from typing import Any

import pytest

from rlff_lightning.agents.counts import Counts
from rlff_lightning.agents.prompt_files import load_prompt
from rlff_lightning.agents.speaking import Speaker
from rlff_lightning.engines.chat_model import ChatSampling
from rlff_lightning.errors import UserError
from rlff_lightning.types import Message, Role


def speaker(model: Any, role: Role = "supporter", temperature: float = 1.0) -> Speaker:
    sampling = ChatSampling(temperature=temperature, max_tokens=9)
    return Speaker(model, role, load_prompt(role), sampling, max_empty_retries=2)


def chats(talk: Speaker, count: int) -> list[Any]:
    return [talk.chat("Be kind.", (), seed) for seed in range(count)]


def test_an_empty_message_is_asked_for_again_alone_with_another_seed(written: Any) -> None:
    model = written("Hello.", "", "I see.", " \n", "Third time.")
    talk = speaker(model)
    messages, counts = talk.speak(chats(talk, 3))
    assert [message.text for message in messages] == ["Hello.", "Third time.", "I see."]
    assert [chat.seed for chat, _ in model.asked[:3]] == [0, 1, 2]
    seeds = [chat.seed for chat, _ in model.asked]
    assert len(set(seeds)) == 5
    # Five requests of 5 + 2 tokens, each with a retry.
    assert counts == Counts(
        requests=5, retries=5, timeouts=5, prompt_tokens=25, completion_tokens=10, empty=2
    )


def test_a_speaker_that_stays_silent_fails_with_a_reason(written: Any) -> None:
    talk = speaker(written("", "Seeker: Hi.\nSupporter: Hi.", "Supporter:", "…"))
    [message], counts = talk.speak(chats(talk, 1))
    # "Seeker: Hi." is its own name taken off, so the second try is a message.
    assert message.text == "Hi."
    talk = speaker(written("", "Supporter:", "no end…"))
    [message], counts = talk.speak(chats(talk, 1))
    assert (message.text, message.failure) == ("", "empty message 3 times")
    assert (counts.empty, counts.cut, counts.dropped, counts.failures) == (3, 1, 1, 1)


def test_a_greedy_speaker_is_asked_again_with_some_warmth(written: Any) -> None:
    model = written("", "Hello.")
    talk = speaker(model, temperature=0.0)
    talk.speak(chats(talk, 1))
    assert [sampling.temperature for _, sampling in model.asked] == [0.0, 0.7]


def test_a_failure_of_the_model_is_not_asked_about_again(written: Any) -> None:
    model = written("!server error: 503", "Hello.")
    talk = speaker(model)
    messages, counts = talk.speak(chats(talk, 2))
    assert messages[0] == Message(role="supporter", text="", failure="server error: 503")
    assert messages[1].text == "Hello."
    assert (counts.failures, counts.empty, len(model.asked)) == (1, 0, 2)


def test_a_supporter_keeps_its_reasoning_and_a_seeker_has_none(written: Any) -> None:
    text = "<think>They are sad. Seeker: x</think>I hear you."
    talk = speaker(written(text))
    assert talk.speak(chats(talk, 1))[0] == [
        Message(role="supporter", text="I hear you.", reasoning="They are sad. Seeker: x")
    ]
    talk = speaker(written(text), "seeker")
    assert talk.speak(chats(talk, 1))[0] == [Message(role="seeker", text="I hear you.")]


def test_a_speaker_sees_itself_as_the_assistant_and_the_other_side_begins(written: Any) -> None:
    said = (
        Message(role="seeker", text="I am sad."),
        Message(role="supporter", text="Why?"),
        Message(role="seeker", text="My dog died."),
    )
    helper, person = speaker(written()), speaker(written(), "seeker")
    roles = [turn.role for turn in helper.chat("s", said, 0).turns]
    assert roles == ["system", "user", "assistant", "user"]
    chat = person.chat("s", said[:2], 0)
    assert [turn.role for turn in chat.turns] == ["system", "user", "assistant", "user"]
    assert chat.turns[1].content == load_prompt("seeker").block("begin")
    assert [turn.content for turn in chat.turns[2:]] == ["I am sad.", "Why?"]


def test_settings_that_cannot_work_are_refused(written: Any) -> None:
    with pytest.raises(UserError, match="max_empty_retries must be at least 0"):
        Speaker(written(), "seeker", load_prompt("seeker"), ChatSampling(), -1)
    with pytest.raises(UserError, match="temperature must be at least 0"):
        speaker(written(), temperature=-1.0)
