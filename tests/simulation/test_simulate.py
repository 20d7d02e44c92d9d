from collections.abc import Sequence
from dataclasses import replace
from math import isnan
from pathlib import Path

import pytest

from rlff_lightning.agents.base import Cast, Critic, Seeker, Supporter
from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.agents.scripted.supporter import MixedSupporter
from rlff_lightning.agents.self_play import say
from rlff_lightning.data.replies import FileReplies
from rlff_lightning.errors import UserError
from rlff_lightning.simulation.candidates import CandidateSettings, sample_candidates
from rlff_lightning.simulation.contexts import (
    DialogueContexts,
    MixedContexts,
    SelfPlayContexts,
)
from rlff_lightning.simulation.futures import FutureSettings, FutureSimulator
from rlff_lightning.simulation.simulate import Simulated, simulate
from rlff_lightning.types import Conversation, Message, Verdict

FIXTURES = Path(__file__).parents[1] / "fixtures"


class MuteSeeker(ScriptedSeeker):
    """Gives up on people with certain seeds: at the opening, or from a supporter turn on."""

    def __init__(self, seeds: Sequence[int], turn: int) -> None:
        super().__init__()
        self.sources = {f"scripted-{seed}" for seed in seeds}
        self.turn = turn

    def open(self, seeds: Sequence[int]) -> list[Conversation]:
        return [
            replace(c, messages=(replace(c.messages[0], failure="no opening"),))
            if self.turn == 0 and c.source in self.sources
            else c
            for c in super().open(seeds)
        ]

    def answer(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        return [
            say(before, Message(role="seeker", text="", failure="no answer"))
            if before.source in self.sources and before.num_turns >= self.turn
            else after
            for before, after in zip(conversations, super().answer(conversations), strict=True)
        ]


class BlindCritic(ScriptedCritic):
    """Gives up on people with certain seeds, from a supporter turn on."""

    def __init__(self, seeds: Sequence[int], turn: int) -> None:
        self.sources = {f"scripted-{seed}" for seed in seeds}
        self.turn = turn

    def judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        return [
            Verdict(value=0.0, outcome="same", is_success=False, failure="no verdict")
            if c.source in self.sources and c.num_turns >= self.turn
            else verdict
            for c, verdict in zip(conversations, super().judge(conversations), strict=True)
        ]


class LostSupporter(MixedSupporter):
    """Gives up on people with certain seeds."""

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        self.sources = {f"scripted-{seed}" for seed in seeds}

    def reply(self, conversations: Sequence[Conversation]) -> list[Message]:
        return [
            Message(role="supporter", text="", failure="no reply")
            if c.source in self.sources
            else m
            for c, m in zip(conversations, super().reply(conversations), strict=True)
        ]


def run(
    contexts: Sequence[Conversation],
    supporter: Supporter | None = None,
    seeker: Seeker | None = None,
    critic: Critic | None = None,
) -> list[Simulated]:
    cast = Cast(
        supporter or MixedSupporter(), seeker or ScriptedSeeker(), critic or ScriptedCritic()
    )
    simulator = FutureSimulator(cast, FutureSettings(num_futures=2, look_ahead=3))
    return simulate(contexts, cast.supporter, CandidateSettings(), simulator)


@pytest.mark.parametrize(
    ("agents", "reason"),
    [
        ({"supporter": LostSupporter([1])}, "no reply"),
        ({"seeker": MuteSeeker([1], turn=1)}, "no answer"),
        ({"seeker": MuteSeeker([1], turn=2)}, "no answer"),
        ({"critic": BlindCritic([1], turn=1)}, "no verdict"),
        ({"critic": BlindCritic([1], turn=3)}, "no verdict"),
    ],
)
def test_a_fault_costs_its_own_context_and_leaves_the_others_as_they_are(
    agents: dict[str, Supporter | Seeker | Critic], reason: str
) -> None:
    contexts = ScriptedSeeker().open([0, 1, 2])
    found = run(contexts, **agents)  # type: ignore[arg-type]
    undisturbed = run(contexts)
    assert [result.failure for result in found] == ["", reason, ""]
    assert found[1].replies == ()
    assert [found[0], found[2]] == [undisturbed[0], undisturbed[2]]
    assert all(len(result.replies) > 1 and not result.failure for result in undisturbed)


def test_a_context_that_could_not_be_had_is_given_back_with_its_reason() -> None:
    contexts = MuteSeeker([1], turn=0).open([0, 1])
    found = run(contexts)
    assert [result.failure for result in found] == ["", "no opening"]
    assert found[1].context is contexts[1]


def test_the_label_of_a_reply_whose_future_broke_off_is_no_number() -> None:
    contexts = ScriptedSeeker().open([0, 1])
    cast = Cast(MixedSupporter(), ScriptedSeeker(), BlindCritic([1], turn=2))
    pairs = sample_candidates(contexts, cast.supporter, CandidateSettings(num_candidates=1))
    labelled = FutureSimulator(cast, FutureSettings(look_ahead=2)).label(
        [candidate for own in pairs for candidate in own]
    )
    assert [record.failure for record in labelled] == ["", "no verdict"]
    assert [isnan(record.value) for record in labelled] == [False, True]


@pytest.mark.parametrize(
    "cast",
    [
        Cast(MixedSupporter(), MuteSeeker(range(99), turn=0), ScriptedCritic()),
        Cast(MixedSupporter(), MuteSeeker(range(99), turn=2), ScriptedCritic()),
        Cast(MixedSupporter(), ScriptedSeeker(), BlindCritic(range(99), turn=2)),
    ],
)
def test_self_play_gives_a_broken_context_up_and_keeps_the_rest(cast: Cast) -> None:
    # Sources are named by the seeds of the conversations: pick half of those that are opened.
    whole = Cast(MixedSupporter(), ScriptedSeeker(), ScriptedCritic())
    sound = SelfPlayContexts().contexts(range(20), whole, seed=5)
    struck = {context.source for context in sound[::2]}
    for agent in (cast.seeker, cast.critic):
        if hasattr(agent, "sources"):
            agent.sources = struck
    found = SelfPlayContexts().contexts(range(20), cast, seed=5)
    assert found[1::2] == sound[1::2]
    failed = [context for context in found if context.failure]
    assert failed
    assert all(context in sound or context.failure for context in found[::2])


def test_dialogues_give_each_context_with_the_reply_that_a_human_gave() -> None:
    source = DialogueContexts([str(FIXTURES / "esconv.json")])
    cast = Cast(MixedSupporter(), ScriptedSeeker(), ScriptedCritic())
    contexts = source.contexts([0, 1, 2], cast, seed=3)
    replies = source.replies([2, 0], seed=3)
    assert [c.messages[-1].role for c in contexts] == ["seeker"] * 3
    assert all(reply is not None and reply.role == "supporter" for reply in replies)
    assert replies == [source.replies([n], seed=3)[0] for n in (2, 0)]
    assert len({context.seed for context in contexts}) == 3


def test_contexts_leave_out_the_dialogues_that_training_holds_out() -> None:
    path = str(FIXTURES / "esconv.json")
    training = FileReplies([path], val_fraction=0.5, split_seed=3)
    training.setup("fit")
    held_out = {context.source for batch in training.val_dataloader() for context, _ in batch}
    source = DialogueContexts([path], val_fraction=0.5, split_seed=3)
    cast = Cast(MixedSupporter(), ScriptedSeeker(), ScriptedCritic())
    kept = {context.source for context in source.contexts([0, 1], cast, seed=3)}
    assert held_out
    assert kept
    assert not held_out & kept
    with pytest.raises(UserError, match="must hold other dialogues"):
        DialogueContexts([path], exclude=[path]).contexts([0], cast, seed=3)


def test_mixed_contexts_know_whose_reply_belongs_to_whom() -> None:
    dialogues = DialogueContexts([str(FIXTURES / "esconv.json")])
    mixed = MixedContexts([SelfPlayContexts(), dialogues])
    assert mixed.has_replies
    assert not MixedContexts([SelfPlayContexts()]).has_replies
    replies = mixed.replies([0, 1, 2, 3], seed=9)
    assert [reply is None for reply in replies] == [True, False, True, False]
    assert mixed.replies([3, 0, 1], seed=9) == [replies[3], None, replies[1]]


def test_the_runs_seed_reaches_the_draws_after_contexts_of_dialogues() -> None:
    cast = Cast(MixedSupporter(), ScriptedSeeker(), ScriptedCritic())
    found = []
    for seed in (1, 2):
        source = DialogueContexts([str(FIXTURES / "esconv.json")])
        contexts = source.contexts([0, 1, 2], cast, seed=seed)
        assert contexts == DialogueContexts(source.paths).contexts([0, 1, 2], cast, seed=seed)
        found.append({context.seed for context in contexts})
    assert found[0].isdisjoint(found[1])
