"""What a stopped evaluation has finished: kept batch by batch, done once."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlff_lightning import __version__
from rlff_lightning.data.identity import describe, identity_of
from rlff_lightning.types import Message

Row = Mapping[str, Any]
"""Anything that JSON holds."""


class UnfinishedRows:
    """Keeps rows in `<folder>/.unfinished/<fingerprint>/` until the end.

    Args:
        folder: The evaluation's.
        fingerprint: Of all that decides a row: another evaluation's rows are not used.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._home = folder / ".unfinished"
        self._folder = self._home / fingerprint

    def read(self) -> dict[tuple[str, int], Row]:
        """Read all finished rows, by part and number; a line cut off by a kill is left out."""
        found: dict[tuple[str, int], Row] = {}
        for file in sorted(self._folder.glob("*.jsonl")):
            # Not splitlines: a message may hold other line separators than the file's.
            *whole, _ = file.read_text(encoding="utf-8").split("\n")
            for line in map(json.loads, whole):
                found[line["part"], line["number"]] = line["row"]
        return found

    def append(self, part: str, numbers: Sequence[int], rows: Sequence[Row], rank: int) -> None:
        """Keep a batch."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{rank}.jsonl").open("a+b") as stream:
            stream.seek(0)
            # A kill may have cut the last line off.
            stream.truncate(stream.read().rfind(b"\n") + 1)
            for number, row in zip(numbers, rows, strict=True):
                line = {"part": part, "number": number, "row": row}
                stream.write(json.dumps(line).encode() + b"\n")

    def clear(self) -> None:
        """Forget everything: the evaluation has ended."""
        shutil.rmtree(self._home, ignore_errors=True)


def fingerprint(**parts: Any) -> str:
    """Hash what decides a row: settings of agents and engines, and their files' contents."""
    identity = identity_of(describe(parts))
    text = json.dumps([__version__, identity], sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def read_message(row: Row) -> Message:
    """Make a message of what ``asdict`` made of it."""
    return Message(**{**row, "critic_answers": tuple(row["critic_answers"])})
