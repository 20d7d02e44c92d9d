from hypothesis import given
from hypothesis import strategies as st

from rlff_lightning.agents.scripted.seeker import ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.simulation.candidates import (
    CandidateSettings,
    most_different,
    sample_candidates,
)
from rlff_lightning.types import Message


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
    alone = [c for x in contexts for c in sample_candidates([x], MixedSupporter(), settings)]
    assert together == alone
    assert [candidate.context.id for candidate in together[::2]] == [x.id for x in contexts]
