"""Future-oriented rewards of human replies: the judged course that the real dialogue took."""

from collections.abc import Callable

from rlff_lightning.dialogue.turns import merge_turns, reply_contexts
from rlff_lightning.errors import UserError
from rlff_lightning.functional.future_reward import (
    Aggregate,
    future_return,
    mean_and_standard_error,
)
from rlff_lightning.types import Dialogue, Future, LabelledReply, Message

Answers = tuple[str, ...]
"""Raw critic answers on one seeker turn."""


def human_futures(
    dialogue: Dialogue,
    *,
    value_of: Callable[[Answers], float],
    succeeds: Callable[[Answers], bool] | None = None,
    horizon: int = 2,
    gamma: float = 1.0,
    aggregate: Aggregate = "discounted",
    max_messages: int | None = None,
) -> list[LabelledReply]:
    """Label every supporter turn with the judged course of the dialogue after it.

    The one future of a reply is what happened: v_h is the critic's value of the h-th seeker turn
    after it that carries answers, and the label is ``future_return(v_0 .. v_(H-1))``.

    Args:
        dialogue: A dialogue with critic answers on its seeker's messages.
        value_of: Value in [-1, 1] of a turn's raw answers, e.g. ``CriticRule.value_of``.
        succeeds: Whether a turn's raw answers reach the goal; None says that none does.
        horizon: Judged seeker turns that count, H; near the dialogue's end fewer may be left.
        gamma: Discount per turn, in (0, 1].
        aggregate: How the values become one number.
        max_messages: Latest turns kept as context; None keeps all.

    Returns:
        One labelled reply per supporter turn that follows a seeker's and is followed by a judged
        one; none for a dialogue without answers. Standard errors are 0: there is one future.

    Raises:
        UserError: If ``horizon`` is below 1.

    Source: RLFF-ESC, arXiv:2508.12935, for the reward; answers as published with DPDP (ACL 2024).
    """
    if horizon < 1:
        raise UserError(f"human_futures.horizon must be >= 1, got {horizon}")
    turns = merge_turns(dialogue.messages)
    places = [place for place, turn in enumerate(turns) if place and turn.role == "supporter"]
    replies = reply_contexts(dialogue, max_messages=max_messages)
    labelled = []
    for place, (context, reply) in zip(places, replies, strict=True):
        course = _course(turns[place + 1 :], horizon)
        judged = [message.critic_answers for message in course if message.critic_answers]
        if not judged:
            continue
        future = Future(
            values=tuple(value_of(answers) for answers in judged),
            is_success=succeeds is not None and any(succeeds(answers) for answers in judged),
            messages=course,
        )
        value, error = mean_and_standard_error(
            [future_return(future.values, gamma=gamma, aggregate=aggregate)]
        )
        labelled.append(
            LabelledReply(
                context=context,
                reply=reply,
                value=value,
                standard_error=error,
                futures=(future,),
                origin="human",
            )
        )
    return labelled


def _course(after: tuple[Message, ...], horizon: int) -> tuple[Message, ...]:
    """Cut what followed after its ``horizon``-th judged turn."""
    judged = [place for place, message in enumerate(after) if message.critic_answers]
    return after[: judged[:horizon][-1] + 1] if judged else ()
