import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from rlff_lightning.agents.scripted.seeker import ScriptedCritic, ScriptedSeeker
from rlff_lightning.errors import UserError
from rlff_lightning.rollout.contexts import (
    ContextStream,
    DialogueContexts,
    LiveConversations,
    MixedContexts,
)
from rlff_lightning.rollout.corpus_contexts import CorpusContexts
from rlff_lightning.types import Conversation, Message

GROUP = [
    Message(role="supporter", text=text)
    for text in ("What happened?", "You could rest.", "It sounds like a lot.", "Hm.")
]


@pytest.fixture
def dialogues(tmp_path: Path) -> Path:
    file = tmp_path / "chats.jsonl"
    lines = [
        {"messages": [{"role": r, "content": f"{r} {n}"} for r in ("user", "assistant") * 2]}
        for n in range(5)
    ]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file


def live(max_turns: int = 4) -> LiveConversations:
    stream = LiveConversations(ScriptedSeeker(), ScriptedCritic(), max_turns=max_turns)
    stream.start(0)
    return stream


def said(stream: ContextStream, steps: int, count: int = 6) -> list[list[Conversation]]:
    taken = []
    for _ in range(steps):
        taken.append(stream.take(count))
        stream.observe([GROUP] * count)
    return taken


def test_every_round_of_dialogue_contexts_has_each_once_in_an_order_of_its_own(
    dialogues: Path,
) -> None:
    stream = DialogueContexts([str(dialogues)])
    stream.start(3)
    # 5 dialogues with 2 supporter turns: a round is 10 contexts, however it is cut.
    ids = [context.id for count in (4, 3, 7, 6) for context in stream.take(count)]
    first, second = ids[:10], ids[10:]
    assert len(set(first)) == 10
    assert set(first) == set(second)
    assert first != second
    again = DialogueContexts([str(dialogues)])
    again.start(3)
    assert [context.id for context in again.take(20)] == ids
    again.start(4)
    assert [context.id for context in again.take(20)] != ids


def test_dialogue_contexts_resume_where_they_stopped(dialogues: Path) -> None:
    stream = DialogueContexts([str(dialogues)])
    stream.start(0)
    stream.take(7)
    resumed = DialogueContexts([str(dialogues)])
    resumed.start(0)
    resumed.load_state_dict(stream.state_dict())
    assert resumed.take(9) == stream.take(9)


def test_dialogues_without_a_supporter_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "hello"}]}))
    with pytest.raises(UserError, match="no supporter turn"):
        DialogueContexts([str(file)]).start(0)


def test_one_member_of_each_group_is_said_and_the_seeker_answers() -> None:
    stream = live()
    [before], [after] = said(stream, 2, count=1)
    # The first of the staggered conversations ends after one turn: a new person follows.
    assert after.num_turns == 0
    assert after.id != before.id
    texts = Counter()
    stream = live(max_turns=8)
    taken = said(stream, 8)
    for earlier, later in pairwise(taken):
        for old, new in zip(earlier, later, strict=True):
            if new.id == old.id:
                assert new.messages[: len(old.messages)] == old.messages
                assert [m.role for m in new.messages[-2:]] == ["supporter", "seeker"]
                assert new.messages[-2] in GROUP
                texts[new.messages[-2].text] += 1
            else:
                assert new.num_turns == 0
    # Drawn at random, not always the same member.
    assert len(texts) == len(GROUP)


def test_the_first_conversations_end_at_staggered_turns() -> None:
    # "Hm." helps nobody: only limits end these, at 1, 2, 3, 4, 1, 2 turns the first time.
    stream = live(max_turns=4)
    ended: dict[int, int] = {}
    for turn in range(1, 5):
        before = stream.take(6)
        stream.observe([[Message(role="supporter", text="Hm.")]] * 6)
        for index, (old, new) in enumerate(zip(before, stream.take(6), strict=True)):
            if new.id != old.id:
                ended.setdefault(index, turn)
    assert [ended[index] for index in range(6)] == [1, 2, 3, 4, 1, 2]


def test_live_success_counts_only_conversations_that_could_last_all_turns() -> None:
    stream = live(max_turns=2)
    useless = [[Message(role="supporter", text="Hm.")]] * 4
    stream.take(4)
    assert stream.observe(useless) == {}  # limits 1, 2, 1, 2: the first and third are broken off
    stream.take(4)
    assert stream.observe(useless) == {"rollout/live_success": 0.0}


def test_a_resumed_stream_of_live_conversations_is_the_same_stream() -> None:
    stream = live()
    said(stream, 3)
    state = json.loads(json.dumps(stream.state_dict()))  # plain values
    resumed = live()
    resumed.load_state_dict(state)
    assert said(resumed, 4) == said(stream, 4)
    assert resumed.state_dict() == stream.state_dict()


def test_mixed_streams_keep_their_shares_and_each_sees_its_own_replies(dialogues: Path) -> None:
    def mixed() -> MixedContexts:
        stream = MixedContexts(
            [DialogueContexts([str(dialogues)]), LiveConversations(ScriptedSeeker(), CRITIC)],
            [0.25, 0.75],
        )
        stream.start(0)
        return stream

    stream = mixed()
    for contexts in said(stream, 3, count=8):
        assert [not context.hidden for context in contexts] == [True] * 2 + [False] * 6
    resumed = mixed()
    resumed.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    assert said(resumed, 2, count=8) == said(stream, 2, count=8)


CRITIC = ScriptedCritic()


@pytest.mark.parametrize("shares", [[0.5], [0.5, 0.6], [1.0, 0.0]])
def test_shares_that_make_no_whole_are_refused(shares: list[float]) -> None:
    with pytest.raises(UserError, match="shares must be positive"):
        MixedContexts([live(), live()], shares)


def test_a_share_that_leaves_no_context_is_refused(dialogues: Path) -> None:
    with pytest.raises(UserError, match=r"val_fraction must be in \[0, 1\), got 1.0"):
        DialogueContexts([str(dialogues)], val_fraction=1.0)


def test_contexts_of_the_corpus_are_the_same_for_a_seed_and_never_the_policys() -> None:
    streams = [CorpusContexts(num_dialogues=5) for _ in range(2)]
    for stream in streams:
        stream.start(3)
    first, again = (stream.take(40) for stream in streams)
    assert first == again
    assert all(context.messages[-1].role == "seeker" for context in first)
    other = CorpusContexts(num_dialogues=5)
    other.start(4)
    assert other.take(40) != first
