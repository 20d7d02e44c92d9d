"""Dialogues that two files share, whatever shape each file gives them."""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from rlff_lightning.dialogue.read import read_dialogues
from rlff_lightning.errors import UserError
from rlff_lightning.types import Dialogue

_log = logging.getLogger(__name__)

_WORD = re.compile(r"\w+")


def fingerprint(dialogue: Dialogue, *, run_length: int = 8) -> frozenset[str]:
    """Give every run of ``run_length`` words in a row, over the borders of messages.

    Case, punctuation and spacing do not count, nor who said what: one edition of a data set joins
    messages that another keeps apart. A shorter dialogue is one run.
    """
    words = [word for message in dialogue.messages for word in _WORD.findall(message.text)]
    folded = [word.casefold() for word in words]
    starts = range(max(len(folded) - run_length, 0) + 1) if folded else ()
    return frozenset(" ".join(folded[start : start + run_length]) for start in starts)


def without_shared(
    dialogues: Sequence[Dialogue], others: Sequence[Dialogue], *, min_share: float = 0.5
) -> list[Dialogue]:
    """Keep the dialogues that are in none of the others' words.

    A dialogue is shared if it has ``min_share`` of the runs of the shorter of the two: an edition
    may lack a beginning or an end. Between different dialogues of ESConv and its relatives the
    share is at most 0.05.

    Args:
        dialogues: What to keep from, in the order to keep.
        others: Dialogues that must not be among them.
        min_share: Share of the runs, in (0, 1].

    Returns:
        Those that no other dialogue shares.
    """
    holders: dict[str, list[int]] = defaultdict(list)
    sizes = []
    for number, other in enumerate(others):
        runs = fingerprint(other)
        sizes.append(len(runs))
        for run in runs:
            holders[run].append(number)

    def is_shared(dialogue: Dialogue) -> bool:
        runs = fingerprint(dialogue)
        common = Counter(number for run in runs for number in holders.get(run, ()))
        return any(
            count >= min_share * min(len(runs), sizes[number]) for number, count in common.items()
        )

    return [dialogue for dialogue in dialogues if not is_shared(dialogue)]


def read_unshared(
    paths: Sequence[str | Path], exclude: Sequence[str | Path] = ()
) -> list[Dialogue]:
    """Read dialogues, less those that other files hold too; their number is logged.

    Args:
        paths: Files of any known shape.
        exclude: Files whose dialogues are left out; none leaves out nothing.

    Raises:
        UserError: If a file cannot be read, or nothing is left.
    """
    dialogues = read_dialogues(paths)
    if not exclude:
        return dialogues
    kept = without_shared(dialogues, read_dialogues(exclude))
    here, there = (", ".join(map(str, files)) for files in (paths, exclude))
    if not kept:
        raise UserError(f"{here} must hold other dialogues than {there}, got the same ones")
    if len(kept) < len(dialogues):
        num_shared = len(dialogues) - len(kept)
        _log.warning(
            "%s: left out %d of %d dialogues, for %s holds them too",
            *(here, num_shared, len(dialogues), there),
        )
    return kept
