import pytest

from rlff_lightning.agents.base import Cast
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.agents.scripted.wording_critic import WordingCritic
from rlff_lightning.agents.self_play import play
from rlff_lightning.types import Conversation, Message, Outcome


def said(*texts: str) -> Conversation:
    return Conversation(id="a", messages=tuple(Message(role="seeker", text=t) for t in texts))


@pytest.mark.parametrize(
    ("texts", "outcome", "relieved"),
    [
        (("I feel awful.", "I still feel low."), "better", False),
        (("I still feel low.", "I feel awful."), "worse", False),
        (("I feel awful.", "It is eating me up."), "same", False),
        (("I feel awful.", "It began with my job.", "I still feel low."), "better", False),
        (("I still feel low.", "I can breathe again."), "better", True),
        (("I feel awful.", "My job is no longer a problem. Thank you."), "solved", True),
    ],
)
def test_only_words_of_distress_are_compared(
    texts: tuple[str, ...], outcome: Outcome, relieved: bool
) -> None:
    (verdict,) = WordingCritic().judge([said(*texts)])
    assert (verdict.outcome, verdict.is_success) == (outcome, outcome == "solved")
    (lenient,) = WordingCritic("relief").judge([said(*texts)])
    assert (lenient.outcome, lenient.is_success) == (outcome, relieved)
    assert WordingCritic().name != WordingCritic("relief").name


def test_it_finds_the_same_successes_as_the_critic_who_sees_the_mind() -> None:
    people = ScriptedSeeker().open(range(60))
    cast = Cast(MixedSupporter(0.9, 0.0), ScriptedSeeker(), ScriptedCritic())
    episodes = play(people, cast, max_turns=8)
    heard = WordingCritic().judge([episode.conversation for episode in episodes])
    assert [v.is_success for v in heard] == [episode.is_success for episode in episodes]
    assert 5 < sum(episode.is_success for episode in episodes) < 60
