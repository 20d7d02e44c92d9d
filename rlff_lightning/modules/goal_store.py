"""Finished episodes of an evaluation that may be stopped: kept batch by batch, played once."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rlff_lightning import __version__
from rlff_lightning.data.identity import describe, identity_of
from rlff_lightning.types import Conversation, Episode, Message, Verdict


class Played(NamedTuple):
    """An episode as it was played, with every judge's verdicts on all of its turns."""

    episode: Episode
    courses: list[list[Verdict]]


class EpisodeStore:
    """Keeps what was played in `<folder>/.unfinished/<fingerprint>/` until the end.

    Args:
        folder: The evaluation's.
        fingerprint: Of all that decides an episode: another evaluation's episodes are not used.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._home = folder / ".unfinished"
        self._folder = self._home / fingerprint

    def read(self) -> dict[tuple[str, int], Played]:
        """Read all finished episodes, by part and seed; a line cut off by a kill is left out."""
        found: dict[tuple[str, int], Played] = {}
        for file in sorted(self._folder.glob("*.jsonl")):
            # Not splitlines: a message may hold other line separators than the file's.
            *whole, _ = file.read_text(encoding="utf-8").split("\n")
            for row in map(json.loads, whole):
                found[row["part"], row["seed"]] = _played(row)
        return found

    def append(self, part: str, seeds: Sequence[int], batch: Sequence[Played], rank: int) -> None:
        """Keep a batch."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{rank}.jsonl").open("a+b") as stream:
            stream.seek(0)
            # A kill may have cut the last line off.
            stream.truncate(stream.read().rfind(b"\n") + 1)
            for seed, played in zip(seeds, batch, strict=True):
                row = {"part": part, "seed": seed, **_row(played)}
                stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def clear(self) -> None:
        """Forget everything: the evaluation has ended."""
        shutil.rmtree(self._home, ignore_errors=True)


def fingerprint(**parts: Any) -> str:
    """Hash what decides an episode: settings of agents and engines, and their files' contents."""
    identity = identity_of(describe(parts))
    text = json.dumps([__version__, identity], sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _row(played: Played) -> dict[str, Any]:
    courses = [[asdict(verdict) for verdict in course] for course in played.courses]
    return {"episode": asdict(played.episode), "courses": courses}


def _played(row: dict[str, Any]) -> Played:
    content = row["episode"]["conversation"]
    messages = tuple(
        Message(**{**message, "critic_answers": tuple(message["critic_answers"])})
        for message in content["messages"]
    )
    conversation = Conversation(
        **{**content, "messages": messages, "hidden": tuple(content["hidden"])}
    )
    verdicts = tuple(map(_verdict, row["episode"]["verdicts"]))
    courses = [[_verdict(verdict) for verdict in course] for course in row["courses"]]
    return Played(Episode(conversation=conversation, verdicts=verdicts), courses)


def _verdict(content: dict[str, Any]) -> Verdict:
    return Verdict(**{**content, "answers": tuple(content["answers"])})
