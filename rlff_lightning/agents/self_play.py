"""Play conversations: every live one takes its next turn in the same batched call."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from rlff_lightning.agents.base import Cast
from rlff_lightning.types import Conversation, Episode, Message, Verdict


def say(conversation: Conversation, message: Message) -> Conversation:
    """Append a message."""
    return replace(conversation, messages=(*conversation.messages, message))


def play(
    conversations: Sequence[Conversation],
    cast: Cast,
    *,
    max_turns: int,
    max_new_turns: int | None = None,
    on_turn: Callable[[int], None] | None = None,
) -> list[Episode]:
    """Carry conversations on until the goal is reached or the turns are used up.

    A speaker or critic that gives up breaks its own conversation off, and no other; one whose
    opening failed is not begun.

    Args:
        conversations: Each ends with a seeker's message.
        cast: The supporter replies first, the seeker answers, the critic judges the answer; a
            success ends the conversation.
        max_turns: Limit of supporter messages of a conversation, those it began with included.
        max_new_turns: Limit of supporter messages added here; ``None`` for no further limit.
        on_turn: Called after every turn with the number of conversations that took it.

    Returns:
        One episode per conversation, in order, with the verdicts of the turns played here; the
        ``failure`` of one that was broken off says why.
    """
    states = list(conversations)
    verdicts: list[list[Verdict]] = [[] for _ in states]
    limits = [
        max_turns if max_new_turns is None else min(max_turns, state.num_turns + max_new_turns)
        for state in states
    ]
    live = [
        index
        for index, state in enumerate(states)
        if not state.failure and state.num_turns < limits[index]
    ]
    while live:
        replies = cast.supporter.reply([states[index] for index in live])
        for index, reply in zip(live, replies, strict=True):
            states[index] = say(states[index], reply)
        heard = [index for index in live if not states[index].failure]
        answered = cast.seeker.answer([states[index] for index in heard]) if heard else []
        for index, state in zip(heard, answered, strict=True):
            states[index] = state
        told = [index for index in heard if not states[index].failure]
        judged = cast.critic.judge([states[index] for index in told]) if told else []
        for index, verdict in zip(told, judged, strict=True):
            verdicts[index].append(verdict)
        if on_turn:
            on_turn(len(live))
        live = [
            index
            for index in told
            if not (verdicts[index][-1].is_success or verdicts[index][-1].failure)
            and states[index].num_turns < limits[index]
        ]
    return [
        Episode(conversation=state, verdicts=tuple(judged))
        for state, judged in zip(states, verdicts, strict=True)
    ]
