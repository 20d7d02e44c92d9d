"""What a simulation has done so far: contexts, turns, and what every role used up."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rlff_lightning.agents.base import Seeker
from rlff_lightning.agents.counts import Counts
from rlff_lightning.types import Conversation


@dataclass(kw_only=True)
class Tally:
    """Counts of one process, or of several added up."""

    finished: int = 0
    """Contexts labelled."""
    quarantined: int = 0
    """Contexts given up."""
    replies: int = 0
    """Labelled replies."""
    futures: int = 0
    """Futures of these replies."""
    cut: int = 0
    """Of them, those that the conversation's last turn left shorter than the look-ahead."""
    turns: int = 0
    """Seeker answers, each with the supporter's reply and the critic's verdict around it."""
    counts: dict[str, Counts] = field(default_factory=dict)
    """What each role used up."""

    @property
    def contexts(self) -> int:
        """Contexts that are done with, one way or the other."""
        return self.finished + self.quarantined

    @property
    def used(self) -> Counts:
        """What all roles used up."""
        return sum(self.counts.values(), Counts())

    @property
    def unparsed_share(self) -> float:
        """Share of the critic's answers that named no outcome; 0 without answers."""
        return self.used.unparsed / max(self.used.answers, 1)

    def __add__(self, other: "Tally") -> "Tally":
        """Add what two processes did."""
        return Tally(
            finished=self.finished + other.finished,
            quarantined=self.quarantined + other.quarantined,
            replies=self.replies + other.replies,
            futures=self.futures + other.futures,
            cut=self.cut + other.cut,
            turns=self.turns + other.turns,
            counts={
                role: self.counts.get(role, Counts()) + other.counts.get(role, Counts())
                for role in {**self.counts, **other.counts}
            },
        )


def write_tally(tally: Tally, file: Path) -> None:
    """Write a process's tally for the one that shows the progress; whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(asdict(tally)), encoding="utf-8")
    partial.replace(file)


def read_tally(file: Path) -> Tally:
    """Read a process's tally."""
    content = json.loads(file.read_text(encoding="utf-8"))
    counts = {role: Counts(**own) for role, own in content.pop("counts").items()}
    return Tally(**content, counts=counts)


class CountedSeeker(Seeker):
    """Passes everything on to a seeker, and counts its turns.

    Args:
        seeker: Plays the people.
        tally: Counts the answers.
        before_turn: Called before every turn; may end the run.
    """

    def __init__(self, seeker: Seeker, tally: Tally, before_turn: Callable[[], None]) -> None:
        self.seeker = seeker
        self.tally = tally
        self.before_turn = before_turn
        self.on_turn: Callable[[], None] | None = None

    @property
    def is_concurrent(self) -> bool:
        return self.seeker.is_concurrent

    def open(self, seeds: Sequence[int]) -> list[Conversation]:
        return self.seeker.open(seeds)

    def answer(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        self.before_turn()
        answered = self.seeker.answer(conversations)
        self.tally.turns += len(answered)
        if self.on_turn is not None:
            self.on_turn()
        return answered
