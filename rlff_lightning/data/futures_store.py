"""A collection of futures that grows over many runs: nothing finished is lost or done twice."""

import fcntl
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from rlff_lightning import __version__
from rlff_lightning.data.identity import Identity, difference
from rlff_lightning.data.store import read_finished, read_parts, write_part
from rlff_lightning.errors import UserError
from rlff_lightning.types import LabelledReply

# Readers of whole folders leave out names that begin with an underscore or a dot.
MANIFEST = "_manifest.json"
QUARANTINE = "_quarantine.jsonl"
_LOCK = ".lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """A context that was given up after every retry."""

    number: int
    """Its place in the run."""
    context_id: str
    """The conversation's id."""
    reason: str
    """Why, as the agent says."""


class FuturesStore:
    """Parquet parts, a manifest that says whose they are, and a quarantine file.

    A part appears whole or not at all, and says which contexts it finishes; so the parts alone
    tell what is left to do. The quarantine grows by one small file per part, written before it.

    Args:
        folder: The store's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.identity: Identity = {}
        self._lock: IO[str] | None = None
        self._next: dict[int, int] = {}

    def open(self, identity: Identity, num_contexts: int) -> None:
        """Begin a collection, or go on with one.

        Args:
            identity: What decides the rows.
            num_contexts: Contexts that the run is to have in the end.

        Raises:
            UserError: If another run is writing there, if the collection was begun by a run with
                another identity, has no manifest, or holds more contexts than asked for.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            self._check_manifest(identity)
            self._check_size(num_contexts)
        except UserError:
            self.unlock()
            raise
        self.identity = identity
        for partial in self.folder.glob(".*.partial"):
            partial.unlink()

    def finished(self) -> set[int]:
        """Read the numbers of all finished contexts."""
        return {
            number for part in self.folder.glob("part-*.parquet") for number in read_finished(part)
        }

    def read(self, numbers: Collection[int]) -> list[LabelledReply]:
        """Read the labelled replies of some contexts, in the order of their numbers."""
        return read_parts(self.folder, numbers)

    def quarantined(self) -> list[Quarantined]:
        """Read the contexts that were given up and not finished since, in order.

        Raises:
            UserError: If a line of a quarantine file is damaged.
        """
        found = {entry.number: entry for file in self._quarantines() for entry in _entries(file)}
        finished = self.finished() if found else set()
        return [found[number] for number in sorted(found.keys() - finished)]

    def write(
        self,
        rank: int,
        finished: Mapping[int, Sequence[LabelledReply]],
        quarantined: Sequence[Quarantined] = (),
    ) -> None:
        """Write what a batch came to.

        Args:
            rank: The process; each has parts of its own.
            finished: Labelled replies of each finished context, by its number.
            quarantined: Contexts that were given up.
        """
        name = self._name(rank)
        if quarantined:
            _write_lines(self.folder / f"_{name}.quarantine.jsonl", quarantined)
        if finished:
            rows = [row for own in finished.values() for row in own]
            numbers = [number for number, own in finished.items() for _ in own]
            part = self.folder / f"{name}.parquet"
            write_part(rows, part, numbers, list(finished), self.identity)

    def close(self) -> None:
        """Gather the quarantine in one file and let the next run in."""
        pieces = self._quarantines()
        if pieces:
            # A run killed in between finds the same contexts named twice.
            _write_lines(self.folder / QUARANTINE, self.quarantined())
            for piece in pieces:
                if piece.name != QUARANTINE:
                    piece.unlink()
        self.unlock()

    @property
    def is_open(self) -> bool:
        """Whether this run is the one that writes there."""
        return self._lock is not None

    def unlock(self) -> None:
        """Let the next run in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        # The lock goes with the process, however it ends.
        lock = (self.folder / _LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise UserError(
                f"{self.folder}: another run is writing there; wait for it, or take another folder"
            ) from error
        self._lock = lock

    def _check_manifest(self, identity: Identity) -> None:
        file = self.folder / MANIFEST
        has_parts = any(self.folder.glob("*.parquet"))
        # A run that stopped before its first part, for a wrong name say, leaves nothing to mix up.
        if not file.is_file() or not (has_parts or self._quarantines()):
            if has_parts:
                raise UserError(
                    f"{self.folder} holds parts but no {MANIFEST}, so that nobody can tell whose "
                    "they are; take another folder or move this one away"
                )
            content = {"identity": identity, "version": __version__}
            _replace(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
            return
        changed = difference(_read_identity(file), json.loads(json.dumps(identity)))
        if changed:
            raise UserError(
                f"{self.folder} was begun by another run: {changed}; "
                "take another folder or move this one away"
            )

    def _check_size(self, num_contexts: int) -> None:
        held = max(self.finished(), default=-1) + 1
        if held > num_contexts:
            raise UserError(
                f"{self.folder} holds {held} contexts, num_contexts is {num_contexts}; "
                f"ask for {held} or more, or take another folder"
            )

    def _name(self, rank: int) -> str:
        if rank not in self._next:
            own = f"part-{rank:03d}-"
            names = [*self.folder.glob(f"{own}*"), *self.folder.glob(f"_{own}*")]
            used = [int(path.name.partition(".")[0].rpartition("-")[2]) for path in names]
            self._next[rank] = max(used, default=-1) + 1
        number = self._next[rank]
        self._next[rank] += 1
        return f"part-{rank:03d}-{number:05d}"

    def _quarantines(self) -> list[Path]:
        whole = self.folder / QUARANTINE
        # Later runs' pieces come after the gathered file, so that their reasons count.
        return [*([whole] if whole.is_file() else []), *sorted(self.folder.glob("_part-*.jsonl"))]


def _entries(file: Path) -> list[Quarantined]:
    entries = []
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: must be UTF-8, got {error.reason} at {error.start}") from error
    # Not splitlines: a reason may hold other line separators than the file's.
    lines = text.removesuffix("\n").split("\n") if text else []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(Quarantined(**json.loads(line)))
        except (json.JSONDecodeError, TypeError) as error:
            raise UserError(
                f"{file}:{number}: must be an object with number, context_id and reason, "
                f"got {line[:80]!r}"
            ) from error
    return entries


def _write_lines(file: Path, entries: Iterable[Quarantined]) -> None:
    lines = [json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in entries]
    _replace(file, "".join(lines))


def _replace(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def _read_identity(file: Path) -> Identity:
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        identity: Identity = dict(content["identity"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: must be JSON with the key 'identity'; take another folder"
        ) from error
    return identity
