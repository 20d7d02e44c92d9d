from collections.abc import Sequence
from dataclasses import replace

import pytest

from rlff_lightning.agents.base import Cast, Critic, Seeker, Supporter
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.errors import UserError
from rlff_lightning.simulation.futures import Candidate, FutureSettings, FutureSimulator
from rlff_lightning.types import Conversation, Message, Verdict


class Listener(Seeker):
    """Answers with the number of supporter turns."""

    def open(self, seeds: Sequence[int]) -> list[Conversation]:
        hello = (Message(role="seeker", text="hello"),)
        return [Conversation(id=str(seed), messages=hello, seed=seed) for seed in seeds]

    def answer(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        answers = [Message(role="seeker", text=str(c.num_turns)) for c in conversations]
        pairs = zip(conversations, answers, strict=True)
        return [replace(c, messages=(*c.messages, answer)) for c, answer in pairs]


class Nodder(Supporter):
    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        return [Message(role="supporter", text="mhm")] * len(conversations)


class Judge(Critic):
    """Values turn n as given; success at turn ``solved``."""

    name = "judge"

    def __init__(self, values: Sequence[float], solved: int = 99) -> None:
        self.values, self.solved = values, solved

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        turns = [int(conversation.messages[-1].text) for conversation in conversations]
        return [
            Verdict(value=self.values[turn - 1], outcome="same", is_success=turn >= self.solved)
            for turn in turns
        ]


REPLY = Message(role="supporter", text="go on")


def label(judge: Judge, context_turns: int = 0, **settings: object) -> tuple[float, float, int]:
    [context] = Listener().open([1])
    for _ in range(context_turns):
        [context] = Listener().answer([replace(context, messages=(*context.messages, REPLY))])
    cast = Cast(Nodder(), Listener(), judge)
    simulator = FutureSimulator(cast, FutureSettings(**settings))  # type: ignore[arg-type]
    [labelled] = simulator.label([Candidate(context=context, reply=REPLY)])
    assert all(len(f.messages) == 2 * len(f.values) - 1 for f in labelled.futures)
    return labelled.value, labelled.standard_error, len(labelled.futures)


def test_a_label_is_the_discounted_mean_of_the_futures_values() -> None:
    # (-1 + 0.5 * 0.5 + 0.25 * 1) / (1 + 0.5 + 0.25) = -0.5 / 1.75; all futures are alike.
    found = label(Judge([-1, 0.5, 1, 9]), num_futures=2, look_ahead=3, gamma=0.5)
    assert found == (pytest.approx(-0.5 / 1.75), 0.0, 2)


def test_without_futures_the_label_is_the_critics_immediate_value() -> None:
    assert label(Judge([-1, 0.5, 1]), num_futures=0, look_ahead=3) == (-1.0, 0.0, 1)


def test_a_future_ends_at_success_and_the_bonus_is_larger_the_earlier() -> None:
    # Solved at the second of 4 turns: (0 + 1) / 2 + 0.8 * (4 - 2 + 1) / 4 = 0.5 + 0.6.
    value, _, _ = label(
        Judge([0, 1, 9, 9], solved=2), num_futures=1, look_ahead=4, success_bonus=0.8
    )
    assert value == pytest.approx(1.1)


def test_a_future_ends_with_the_conversations_last_turn() -> None:
    # Two turns are over and four are all: the reply is the third, one more can follow.
    value, _, _ = label(Judge([9, 9, 0.2, 0.4, 9]), context_turns=2, look_ahead=5, max_turns=4)
    assert value == pytest.approx(0.3)


def test_a_future_that_the_last_turn_leaves_shorter_than_the_look_ahead_is_marked() -> None:
    def cut(judge: Judge, **settings: int) -> list[bool]:
        cast = Cast(Nodder(), Listener(), judge)
        simulator = FutureSimulator(cast, FutureSettings(**{"num_futures": 1, **settings}))
        [record] = simulator.label([Candidate(context=Listener().open([1])[0], reply=REPLY)])
        return [future.is_cut for future in record.futures]

    never, at_once = Judge([0.5] * 9), Judge([0.5] * 9, solved=1)
    assert cut(never, look_ahead=3, max_turns=2) == [True]
    assert cut(never, look_ahead=2, max_turns=2) == [False]
    # Success ends a future early, and so does an immediate value, which looks no further.
    assert cut(at_once, look_ahead=3, max_turns=2) == [False]
    assert cut(never, look_ahead=3, max_turns=1, num_futures=0) == [False]


def test_an_immediate_value_has_no_bonus() -> None:
    found = label(Judge([0.4], solved=1), num_futures=0, look_ahead=3, success_bonus=0.5)
    assert found == (0.4, 0.0, 1)


@pytest.mark.parametrize(("aggregate", "value"), [("terminal", -0.2), ("max", 0.6)])
def test_other_aggregates_take_the_last_or_the_best_value(aggregate: str, value: float) -> None:
    found = label(Judge([0.1, 0.6, -0.2]), look_ahead=3, aggregate=aggregate)
    assert found[0] == pytest.approx(value)


def test_a_label_depends_neither_on_neighbours_nor_on_order() -> None:
    cast = Cast(MixedSupporter(), ScriptedSeeker(), ScriptedCritic())
    simulator = FutureSimulator(cast, FutureSettings(num_futures=3, look_ahead=3))
    contexts = ScriptedSeeker().open(range(12))
    replies = ("What happened with your exam?", "It sounds like a heavy load.")
    candidates = [
        Candidate(context=context, reply=Message(role="supporter", text=text))
        for context in contexts
        for text in replies
    ]
    together = simulator.label(candidates)
    assert len({record.value for record in together}) > 3
    assert any(record.standard_error > 0 for record in together)
    assert [simulator.label([candidate])[0] for candidate in candidates] == together
    assert simulator.label(candidates[::-1])[::-1] == together


@pytest.mark.parametrize(
    "settings",
    [{"num_futures": -1}, {"look_ahead": 0}, {"gamma": 0.0}, {"gamma": 1.1}, {"max_turns": 0}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"FutureSettings.{next(iter(settings))} must be"):
        FutureSettings(**settings)  # type: ignore[arg-type]
