"""Finished episodes of an evaluation that may be stopped."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from rlff_lightning.modules.unfinished import Row, UnfinishedRows, read_message
from rlff_lightning.types import Conversation, Episode, Verdict


class Played(NamedTuple):
    """An episode as it was played, with every judge's verdicts on all of its turns."""

    episode: Episode
    courses: list[list[Verdict]]

    @property
    def is_whole(self) -> bool:
        """Nobody gave up: no speaker, and no judge, whichever ended the episode."""
        verdicts = [verdict for course in self.courses for verdict in course]
        return not (self.episode.failure or any(verdict.failure for verdict in verdicts))


class EpisodeStore(UnfinishedRows):
    """Keeps what was played, by part and the episode's seed."""

    def episodes(self) -> dict[tuple[str, int], Played]:
        """Read all finished episodes."""
        return {key: _played(row) for key, row in self.read().items()}

    def keep(self, part: str, seeds: Sequence[int], batch: Sequence[Played], rank: int) -> None:
        """Keep a batch, but for what was broken off: that is played again when the run goes on."""
        whole = [(seed, _row(p)) for seed, p in zip(seeds, batch, strict=True) if p.is_whole]
        self.append(part, [seed for seed, _ in whole], [row for _, row in whole], rank)


def _row(played: Played) -> dict[str, Any]:
    courses = [[asdict(verdict) for verdict in course] for course in played.courses]
    return {"episode": asdict(played.episode), "courses": courses}


def _played(row: Row) -> Played:
    content = row["episode"]["conversation"]
    messages = tuple(map(read_message, content["messages"]))
    conversation = Conversation(
        **{**content, "messages": messages, "hidden": tuple(content["hidden"])}
    )
    verdicts = tuple(map(_verdict, row["episode"]["verdicts"]))
    courses = [[_verdict(verdict) for verdict in course] for course in row["courses"]]
    return Played(Episode(conversation=conversation, verdicts=verdicts), courses)


def _verdict(content: dict[str, Any]) -> Verdict:
    return Verdict(**{**content, "answers": tuple(content["answers"])})
