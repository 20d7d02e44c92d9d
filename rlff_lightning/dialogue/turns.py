"""Turns of a dialogue, and the contexts that its supporter replied to."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from rlff_lightning.errors import UserError
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation, Dialogue, Message

_SEPARATOR = "\n"


def merge_turns(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Join each run of one side's messages into one turn.

    Texts are joined by a newline: people leave out the full stop at the end of a message, so a
    space would run two sentences into one.

    Args:
        messages: What was said, oldest first.

    Returns:
        Turns of alternating sides. A turn has the run's reasoning, one line per message; its
        distinct strategies joined by ", "; and the critic answers of the last message that has
        some, for they judge the whole run.
    """
    return tuple(_join(tuple(run)) for _, run in groupby(messages, key=lambda m: m.role))


def reply_contexts(
    dialogue: Dialogue, *, max_messages: int | None = None
) -> list[tuple[Conversation, Message]]:
    """List every supporter turn that answers the seeker, with what was said before it.

    Args:
        dialogue: A dialogue, its messages merged or not.
        max_messages: Keep this many of the latest turns as context; None keeps all.

    Returns:
        Pairs of context and reply in order. A context ends with a seeker's turn; its id is
        ``<dialogue id>/t<n>`` for the reply that is the dialogue's n-th supporter turn, whatever
        ``max_messages`` is, its seed is derived from the id, and its source is the dialogue.

    Raises:
        UserError: If ``max_messages`` is below 1.
    """
    if max_messages is not None and max_messages < 1:
        raise UserError(f"reply_contexts.max_messages must be >= 1 or None, got {max_messages}")
    turns = merge_turns(dialogue.messages)
    contexts = []
    num_replies = 0
    for position, turn in enumerate(turns):
        if turn.role != "supporter":
            continue
        num_replies += 1
        if position > 0:
            said = turns[:position][-max_messages if max_messages else 0 :]
            contexts.append((_context(dialogue, said, num_replies), turn))
    return contexts


def _context(dialogue: Dialogue, said: tuple[Message, ...], number: int) -> Conversation:
    identity = f"{dialogue.id}/t{number}"
    return Conversation(
        id=identity,
        messages=said,
        situation=dialogue.situation,
        problem=dialogue.problem,
        source=dialogue.id,
        seed=derive_seed(identity),
    )


def _join(run: Sequence[Message]) -> Message:
    answers = [message.critic_answers for message in run if message.critic_answers]
    return Message(
        role=run[0].role,
        text=_SEPARATOR.join(message.text for message in run),
        reasoning=_SEPARATOR.join(message.reasoning for message in run if message.reasoning),
        strategy=", ".join(dict.fromkeys(m.strategy for m in run if m.strategy)),
        critic_answers=answers[-1] if answers else (),
    )
