from collections.abc import Sequence
from dataclasses import replace

from rlff_lightning.agents.base import Cast, Critic, Seeker, Supporter
from rlff_lightning.agents.self_play import play, say
from rlff_lightning.metrics.goal_agreement import JudgeAgreement
from rlff_lightning.modules.goal_figures import PartFigures
from rlff_lightning.modules.goal_panel import Panel, as_judged
from rlff_lightning.modules.goal_store import Played
from rlff_lightning.types import Conversation, Episode, Message, Verdict

NEXT = Verdict(value=0.5, outcome="better", is_success=False)
DONE = Verdict(value=1.0, outcome="solved", is_success=True)
GONE = Verdict(value=0.0, outcome="unparsed", is_success=False, failure="no answer")


class Judge(Critic):
    """Gives these verdicts turn by turn, then the last one."""

    def __init__(self, *verdicts: Verdict) -> None:
        self.verdicts = verdicts

    name = "judge"

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        last = len(self.verdicts)
        return [self.verdicts[min(c.num_turns, last) - 1] for c in conversations]


class Talker(Supporter):
    """Gives up in one turn."""

    def __init__(self, fails_in: int = 0) -> None:
        self.fails_in = fails_in

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        reply = Message(role="supporter", text="I see.")
        return [
            replace(reply, failure="no reply") if c.num_turns + 1 == self.fails_in else reply
            for c in conversations
        ]


class Sad(Seeker):
    """Says one thing."""

    def open(self, seeds: Sequence[int]) -> list[Conversation]:
        said = Message(role="seeker", text="I am sad.")
        return [Conversation(id=str(seed), messages=(said,), seed=seed) for seed in seeds]

    def answer(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        return [say(c, Message(role="seeker", text="Still sad.")) for c in conversations]


def run(judges: Sequence[Critic], supporter: Supporter) -> tuple[Played, list[Episode]]:
    panel = Panel(judges)
    (episode,) = play(Sad().open([1]), Cast(supporter, Sad(), panel), max_turns=4)
    played = Played(episode, panel.courses(episode.conversation))
    return played, [as_judged(episode, course) for course in played.courses]


def alone(judge: Critic, supporter: Supporter) -> Episode:
    (episode,) = play(Sad().open([1]), Cast(supporter, Sad(), judge), max_turns=4)
    return episode


def test_a_second_judge_that_gives_up_leaves_the_first_ones_result_as_it_is() -> None:
    judges = [Judge(NEXT, NEXT, DONE), Judge(NEXT, GONE, DONE)]
    played, found = run(judges, Talker())
    assert found == [alone(judge, Talker()) for judge in judges]
    assert [episode.is_success for episode in found] == [True, False]
    figures = PartFigures(max_turns=4, num_judges=2)
    figures.update([played])
    first, second = figures.compute()
    assert (first["success_rate"], first["broken_off"]) == (1, 0)
    assert (second["success_rate"], second["broken_off"]) == (0, 1)


def test_a_supporter_that_gives_up_after_one_judges_success_breaks_off_the_others_alone() -> None:
    judges = [Judge(NEXT, DONE), Judge(DONE), Judge(NEXT)]
    _, found = run(judges, Talker(fails_in=3))
    assert found == [alone(judge, Talker(fails_in=3)) for judge in judges]
    assert [bool(episode.failure) for episode in found] == [False, False, True]
    assert [len(episode.conversation.messages) for episode in found] == [5, 3, 6]


def test_judges_that_have_all_given_up_end_the_play() -> None:
    played, found = run([Judge(GONE), Judge(NEXT, GONE)], Talker())
    assert played.episode.conversation.num_turns == 2
    assert [episode.failure for episode in found] == ["no answer"] * 2


def test_agreement_ends_where_a_judge_gives_up_and_leaves_its_failures_out() -> None:
    agreement = JudgeAgreement()
    agreement.update([NEXT, NEXT, DONE], [NEXT, GONE, DONE])
    found = agreement.compute()
    # The turns 1 and 3 were judged by both; the second judge's episode had ended by then.
    assert (found.difference, found.same_outcome) == (1.0, 1.0)
    assert int(agreement.outcomes.sum()) == 2
