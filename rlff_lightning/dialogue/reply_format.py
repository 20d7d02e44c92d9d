"""The form of a policy's output: reasoning in ``<think>…</think>``, then the reply."""

from rlff_lightning.types import Message

OPEN, CLOSE = "<think>", "</think>"


def is_well_formed(text: str) -> bool:
    """Say whether ``text`` is one non-empty reasoning followed by one non-empty reply."""
    if text.count(OPEN) != 1 or text.count(CLOSE) != 1 or not text.startswith(OPEN):
        return False
    reasoning, reply = text.removeprefix(OPEN).split(CLOSE)
    return bool(reasoning.strip()) and bool(reply.strip())


def parse_reply(text: str, *, is_reasoning_open: bool = False) -> Message:
    """Split a policy's output into reasoning and reply.

    What the seeker must never read is cut generously: everything before the last ``</think>`` is
    reasoning, and an opened reasoning that never ends leaves an empty reply.

    Args:
        text: Generated text without the end-of-sequence token.
        is_reasoning_open: The prompt already ended with ``<think>``.

    Returns:
        The supporter's message; ``text`` is empty if there is no reply.
    """
    before, found, after = text.rpartition(CLOSE)
    if found:
        return Message(
            role="supporter",
            text=after.replace(OPEN, "").strip(),
            reasoning=before.strip().removeprefix(OPEN).strip(),
        )
    head, opened, tail = text.partition(OPEN)
    if is_reasoning_open and not opened:
        head, tail = "", text
    return Message(role="supporter", text=head.strip(), reasoning=tail.strip())
