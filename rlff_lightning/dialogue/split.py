"""Splits by dialogue: no two parts share a source, and file order does not matter."""

from collections.abc import Sequence
from typing import TypeVar

from rlff_lightning.errors import UserError
from rlff_lightning.seeds import derive_seed
from rlff_lightning.types import Conversation, Dialogue, LabelledReply

Item = TypeVar("Item", Dialogue, Conversation, LabelledReply)


def split_dialogues(
    items: Sequence[Item], fractions: Sequence[float], seed: int
) -> list[list[Item]]:
    """Split dialogues, or what was made from them, into parts without a common dialogue.

    Sources are ranked by a hash of seed and id, and the ranking is cut at the fractions: sizes are
    exact, and a source's part depends on the set of sources, not on their order. Five equal
    fractions are the folds of a five-fold cross-validation.

    Args:
        items: Dialogues, contexts or labelled replies.
        fractions: Share of the sources for each part, in [0, 1]; they sum to 1.
        seed: Another seed gives another split.

    Returns:
        One list per fraction, each in the order of ``items``.

    Raises:
        UserError: If fractions do not sum to 1, a part with a share would be empty, or an item
            names no source.
    """
    if any(share < 0 for share in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(
            f"split_dialogues.fractions must be >= 0 and sum to 1, got {list(fractions)}"
        )
    sources = {_source_of(item) for item in items}
    ranked = sorted(sources, key=lambda source: (derive_seed(seed, "split", source), source))
    part_of: dict[str, int] = {}
    total = 0.0
    start = 0
    for part, share in enumerate(fractions):
        total += share
        end = round(total * len(ranked))
        if share > 0 and end == start:
            raise UserError(
                f"split_dialogues.fractions must leave every part a dialogue, got none for part "
                f"{part + 1} of {list(fractions)} among {len(ranked)}; give more dialogues"
            )
        part_of.update(dict.fromkeys(ranked[start:end], part))
        start = end
    parts: list[list[Item]] = [[] for _ in fractions]
    for item in items:
        parts[part_of[_source_of(item)]].append(item)
    return parts


def _source_of(item: Dialogue | Conversation | LabelledReply) -> str:
    match item:
        case Dialogue():
            source = item.id
        case Conversation():
            source = item.source
        case LabelledReply():
            source = item.context.source
    if not source:
        raise UserError(f"source must name a dialogue, got none for {item!r:.80}")
    return source
