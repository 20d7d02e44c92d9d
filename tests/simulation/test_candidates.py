from collections.abc import Sequence
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.agents.base import Supporter
from rlff_lightning.agents.scripted.seeker import ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.errors import UserError
from rlff_lightning.simulation.candidates import (
    CandidateSettings,
    most_different,
    sample_candidates,
)
from rlff_lightning.types import Conversation, Message


def messages(*texts: str) -> list[Message]:
    return [Message(role="supporter", text=text) for text in texts]


def test_the_farthest_from_all_chosen_ones_comes_next() -> None:
    # Distance to "a b c": 1 - 2/4 = 0.5, 1 - 0/6 = 1, 1 - 1/5 = 0.8. After "x y z" is chosen,
    # "a q r" is 0.8 from its nearest and "a b d" 0.5.
    replies = messages("a b c", "a b d", "x y z", "a q r")
    assert [m.text for m in most_different(replies, 3)] == ["a b c", "x y z", "a q r"]


def test_equal_and_empty_texts_are_not_chosen_twice_or_at_all() -> None:
    assert [m.text for m in most_different(messages("", "a", "a", ""), 4)] == ["a"]
    assert most_different(messages("", ""), 2) == []


@given(st.lists(st.text("ab ", max_size=4), max_size=8), st.integers(1, 8))
def test_choices_are_different_and_as_many_as_there_can_be(texts: list[str], count: int) -> None:
    chosen = [message.text for message in most_different(messages(*texts), count)]
    assert len(chosen) == len(set(chosen)) == min(count, len(set(texts) - {""}))
    assert set(chosen) <= set(texts)


def test_candidates_of_a_context_do_not_depend_on_the_others() -> None:
    contexts = ScriptedSeeker().open(range(5))
    settings = CandidateSettings(num_candidates=2, num_samples=5)
    together = sample_candidates(contexts, MixedSupporter(), settings)
    alone = [sample_candidates([x], MixedSupporter(), settings)[0] for x in contexts]
    assert together == alone
    assert [own[0].context for own in together] == contexts


class Quoter(Supporter):
    """Says these texts one after another; "!" is a failure."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        said = [self.texts[index % len(self.texts)] for index in range(len(conversations))]
        return [
            Message(role="supporter", text="", failure="gave up")
            if text == "!"
            else Message(role="supporter", text=text, reasoning="sampled")
            for text in said
        ]


HUMAN = Message(role="supporter", text="a b", strategy="Question")


@pytest.mark.parametrize(
    ("origins", "expected"),
    [
        ("policy", [("c d", "policy"), ("a b", "policy")]),
        ("human", [("a b", "human")]),
        # The policy said the human's words too: they stay the human's, with their strategy.
        ("both", [("a b", "human"), ("c d", "policy")]),
    ],
)
def test_a_candidate_keeps_who_wrote_it(
    origins: Literal["policy", "human", "both"], expected: list[tuple[str, str]]
) -> None:
    [context] = ScriptedSeeker().open([0])
    settings = CandidateSettings(num_candidates=4, num_samples=4, origins=origins)
    [own] = sample_candidates([context], Quoter("c d", "a b"), settings, [HUMAN])
    assert [(candidate.reply.text, candidate.origin) for candidate in own] == expected
    assert all((c.reply == HUMAN) == (c.origin == "human") for c in own)


def test_a_context_without_a_human_reply_has_no_human_candidate() -> None:
    contexts = ScriptedSeeker().open([0, 1])
    settings = CandidateSettings(origins="human")
    first, second = sample_candidates(contexts, Quoter("x"), settings, [None, HUMAN])
    assert (first, [candidate.reply for candidate in second]) == ([], [HUMAN])


def test_one_failed_sample_is_all_that_is_left_of_its_context() -> None:
    contexts = ScriptedSeeker().open([0, 1])
    settings = CandidateSettings(num_candidates=2, num_samples=2)
    first, second = sample_candidates(contexts, Quoter("a", "b", "c", "!"), settings)
    assert [candidate.reply.text for candidate in first] == ["a", "b"]
    assert [candidate.reply.failure for candidate in second] == ["gave up"]


def test_a_proposer_adds_its_replies_and_says_nothing_twice() -> None:
    (context,) = ScriptedSeeker().open([0])
    settings = CandidateSettings(
        num_candidates=1, num_samples=1, proposer=Quoter("own", "rare"), num_proposed=2
    )
    (own,) = sample_candidates([context], Quoter("own"), settings)
    assert [(c.reply.text, c.origin) for c in own] == [("own", "policy"), ("rare", "proposer")]


def test_a_proposer_that_gives_up_fails_the_context() -> None:
    (context,) = ScriptedSeeker().open([0])
    settings = CandidateSettings(proposer=Quoter("rare", "!"), num_proposed=2)
    (own,) = sample_candidates([context], Quoter("a", "b", "c", "d"), settings)
    assert [c.reply.failure for c in own] == ["gave up"]


@pytest.mark.parametrize(("proposer", "count"), [(None, 1), (Quoter("a"), 0)])
def test_a_proposer_and_a_number_of_proposals_need_each_other(
    proposer: Supporter | None, count: int
) -> None:
    with pytest.raises(UserError, match=f"num_proposed must be .* got {count}"):
        CandidateSettings(proposer=proposer, num_proposed=count)
