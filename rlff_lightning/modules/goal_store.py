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


class EpisodeStore(UnfinishedRows):
    """Keeps what was played, by part and the episode's seed."""

    def episodes(self) -> dict[tuple[str, int], Played]:
        """Read all finished episodes."""
        return {key: _played(row) for key, row in self.read().items()}

    def keep(self, part: str, seeds: Sequence[int], batch: Sequence[Played], rank: int) -> None:
        """Keep a batch."""
        self.append(part, seeds, [_row(played) for played in batch], rank)


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
