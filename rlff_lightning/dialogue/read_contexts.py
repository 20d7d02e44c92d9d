"""Contexts of files' dialogues, with the human replies to them, less what is held out."""

from collections.abc import Sequence
from pathlib import Path

from rlff_lightning.dialogue.overlap import read_unshared
from rlff_lightning.dialogue.split import split_dialogues
from rlff_lightning.dialogue.turns import reply_contexts
from rlff_lightning.errors import UserError
from rlff_lightning.types import Conversation, Message


def check_share(owner: str, val_fraction: float) -> None:
    """Refuse a share to hold out that leaves nothing, or is none.

    Raises:
        UserError: If it is outside [0, 1).
    """
    if not 0 <= val_fraction < 1:
        raise UserError(f"{owner}.val_fraction must be in [0, 1), got {val_fraction!r}")


def read_contexts(
    owner: str,
    paths: Sequence[str | Path],
    *,
    max_messages: int | None = None,
    val_fraction: float = 0.0,
    split_seed: int = 0,
    exclude: Sequence[str | Path] = (),
) -> list[tuple[Conversation, Message]]:
    """Read the supporter turns of dialogues, each with what was said before it.

    Args:
        owner: Whose settings these are, as complaints name it.
        paths: Files of any known dialogue shape.
        max_messages: Latest turns kept; ``None`` keeps all.
        val_fraction: Share of the dialogues left out: those that ``FileReplies`` holds
            out with the same share and ``split_seed``.
        split_seed: Another one leaves out other dialogues.
        exclude: Files whose dialogues are left out, before the split.

    Returns:
        Pairs of context and reply, in the order of the files.

    Raises:
        UserError: If a file cannot be read, or nothing is left.
    """
    shares = [1 - val_fraction, val_fraction]
    dialogues = split_dialogues(read_unshared(paths, exclude), shares, split_seed)[0]
    pairs = [
        pair
        for dialogue in dialogues
        for pair in reply_contexts(dialogue, max_messages=max_messages)
    ]
    if not pairs:
        raise UserError(f"{owner}.paths hold no supporter turn to reply to")
    return pairs
