from collections.abc import Sequence
from dataclasses import replace

import pytest

from rlff_lightning.agents.base import Cast, Critic, Seeker, Supporter
from rlff_lightning.agents.self_play import play, say
from rlff_lightning.types import Conversation, Message, Verdict

Fault = tuple[str, str, int]
"""Who gives up, in which conversation, at which supporter turn."""


class Faulty:
    def __init__(self, *faults: Fault) -> None:
        self.faults = faults
        self.asked: list[tuple[str, str, int]] = []

    def failure(self, who: str, conversation: Conversation, turn: int) -> str:
        self.asked.append((who, conversation.id, turn))
        return f"{who} gave up" if (who, conversation.id, turn) in self.faults else ""


class FaultySupporter(Faulty, Supporter):
    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        assert conversations
        failures = [self.failure("supporter", c, c.num_turns + 1) for c in conversations]
        return [Message(role="supporter", text="" if f else "mhm", failure=f) for f in failures]


class FaultySeeker(Faulty, Seeker):
    def open(self, seeds: Sequence[int]) -> list[Conversation]:
        hello = (Message(role="seeker", text="hello"),)
        return [Conversation(id="abcdef"[seed], messages=hello, seed=seed) for seed in seeds]

    def answer(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        assert conversations
        failures = [self.failure("seeker", c, c.num_turns) for c in conversations]
        return [
            say(c, Message(role="seeker", text="" if f else "hm", failure=f))
            for c, f in zip(conversations, failures, strict=True)
        ]


class FaultyCritic(Faulty, Critic):
    name = "faulty"

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        assert conversations
        failures = [self.failure("critic", c, c.num_turns) for c in conversations]
        return [Verdict(value=0, outcome="same", is_success=False, failure=f) for f in failures]


def cast_with(*faults: Fault) -> Cast:
    return Cast(FaultySupporter(*faults), FaultySeeker(*faults), FaultyCritic(*faults))


@pytest.mark.parametrize(
    ("who", "num_messages", "num_verdicts"),
    # Broken off at turn 2 of 3: hello, mhm, hm, then nothing / the failed reply and no answer.
    [("supporter", 4, 1), ("seeker", 5, 1), ("critic", 5, 2)],
)
def test_a_failure_breaks_its_own_conversation_off_and_no_other(
    who: str, num_messages: int, num_verdicts: int
) -> None:
    cast = cast_with((who, "b", 2))
    a, b, c = play(FaultySeeker().open([0, 1, 2]), cast, max_turns=3)
    assert b.failure == f"{who} gave up"
    assert not b.is_success
    assert (len(b.conversation.messages), len(b.verdicts)) == (num_messages, num_verdicts)
    for whole in (a, c):
        assert whole.failure == ""
        assert (len(whole.conversation.messages), len(whole.verdicts)) == (7, 3)
    undisturbed = play(FaultySeeker().open([0, 2]), cast_with(), max_turns=3)
    assert [a, c] == undisturbed


def test_nobody_is_asked_about_a_conversation_that_was_broken_off() -> None:
    cast = cast_with(("supporter", "a", 1), ("seeker", "b", 1), ("critic", "c", 1))
    play(FaultySeeker().open([0, 1, 2]), cast, max_turns=3)
    assert cast.supporter.asked == [("supporter", name, 1) for name in "abc"]  # type: ignore[attr-defined]
    assert cast.seeker.asked == [("seeker", name, 1) for name in "bc"]  # type: ignore[attr-defined]
    assert cast.critic.asked == [("critic", "c", 1)]  # type: ignore[attr-defined]


def test_a_conversation_whose_opening_failed_is_broken_off_before_anybody_replies() -> None:
    silent = Message(role="seeker", text="", failure="seeker gave up")
    opened = FaultySeeker().open([0, 1])
    opened[0] = replace(opened[0], messages=(silent,))
    cast = cast_with()
    broken, whole = play(opened, cast, max_turns=3)
    assert (broken.failure, broken.verdicts) == ("seeker gave up", ())
    assert broken.conversation == opened[0]
    assert len(whole.verdicts) == 3
    assert {name for _, name, _ in cast.supporter.asked} == {"b"}  # type: ignore[attr-defined]


def test_a_conversation_may_carry_on_after_its_fault_is_gone() -> None:
    [broken] = play(FaultySeeker().open([0]), cast_with(("supporter", "a", 2)), max_turns=3)
    whole = replace(broken.conversation, messages=broken.conversation.messages[:-1])
    [episode] = play([whole], cast_with(), max_turns=3)
    assert (episode.failure, episode.conversation.num_turns) == ("", 3)
