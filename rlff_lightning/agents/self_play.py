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

    Args:
        conversations: Each ends with a seeker's message.
        cast: The supporter replies first, the seeker answers, the critic judges the answer; a
            success ends the conversation.
        max_turns: Limit of supporter messages of a conversation, those it began with included.
        max_new_turns: Limit of supporter messages added here; ``None`` for no further limit.
        on_turn: Called after every turn with the number of conversations that took it.

    Returns:
        One episode per conversation, in order, with the verdicts of the turns played here.
    """
    states = list(conversations)
    verdicts: list[list[Verdict]] = [[] for _ in states]
    limits = [
        max_turns if max_new_turns is None else min(max_turns, state.num_turns + max_new_turns)
        for state in states
    ]
    live = [index for index, state in enumerate(states) if state.num_turns < limits[index]]
    while live:
        replies = cast.supporter.reply([states[index] for index in live])
        heard = [say(states[index], reply) for index, reply in zip(live, replies, strict=True)]
        answered = cast.seeker.answer(heard)
        for index, state, verdict in zip(live, answered, cast.critic.judge(answered), strict=True):
            states[index] = state
            verdicts[index].append(verdict)
        if on_turn:
            on_turn(len(live))
        live = [
            index
            for index in live
            if not verdicts[index][-1].is_success and states[index].num_turns < limits[index]
        ]
    return [
        Episode(conversation=state, verdicts=tuple(judged))
        for state, judged in zip(states, verdicts, strict=True)
    ]
