"""JSON files as records that know where they stand, so that every complaint names its place."""

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlff_lightning.errors import UserError

_DIGITS = 4300  # Python converts no longer number


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON object; its methods check a field's type where it is read."""

    where: str
    """File and line, or file and position."""
    values: Mapping[str, object]
    """The object as parsed."""

    def text(self, key: str, default: str | None = None) -> str:
        """Read a string; a missing or null one is ``default``, or a mistake if that is None."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.mistake(key, "text")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise self.mistake(key, "valid Unicode, without lone surrogates")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Read a list of strings; a missing or null one is empty."""
        value = self.values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise self.mistake(key, "a list of texts")
        return tuple(value)

    def number(self, key: str) -> int | None:
        """Read a whole number, or one written as text; a missing, null or blank one is None."""
        value = self.values.get(key)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        if isinstance(value, str) and value.strip().isdecimal() and len(value) < _DIGITS:
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.mistake(key, "a whole number")
        return value

    def flag(self, key: str) -> bool:
        """Read true or false; a missing or null one is false."""
        value = self.values.get(key)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.mistake(key, "true or false")
        return value

    def record(self, key: str) -> "Record":
        """Read an object; a missing or null one is empty."""
        value = self.values.get(key)
        if value is None:
            return Record(self.where, {})
        if not isinstance(value, dict):
            raise self.mistake(key, "an object")
        return Record(f"{self.where}, {key}", value)

    def messages(self, key: str) -> "list[Record]":
        """Read a list of objects, each placed as ``message 1``, ``message 2``, ..."""
        value = self.values.get(key)
        if not isinstance(value, list):
            raise self.mistake(key, "a list of messages")
        for number, entry in enumerate(value, start=1):
            if not isinstance(entry, dict):
                raise UserError(
                    f"{self.where}, message {number}: must be an object, got {show(entry)}"
                )
        return [
            Record(f"{self.where}, message {number}", entry)
            for number, entry in enumerate(value, start=1)
        ]

    def first_message(self, key: str) -> Mapping[str, object]:
        """Look at the first object of a list without complaint; empty if there is none."""
        value = self.values.get(key)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return value[0]
        return {}

    def mistake(self, key: str, rule: str) -> UserError:
        """Word the mistake that a field is not what it must be."""
        got = show(self.values[key]) if key in self.values else "nothing"
        return UserError(f'{self.where}: "{key}" must be {rule}, got {got}')


def show(value: object) -> str:
    """Print a value on one line, cut to a readable length."""
    return reprlib.repr(value)


def files_of(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """List the files meant by a path, several paths, or folders of .json and .jsonl files."""
    if isinstance(paths, str | Path):
        paths = [paths]
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in {".json", ".jsonl"})
            if not inside:
                raise UserError(f"{path}: folder must hold .json or .jsonl files, got none")
            files.extend(inside)
        else:
            files.append(path)
    if not files:
        raise UserError("path must name at least one file, got none")
    return files


def load_records(path: Path) -> list[Record]:
    """Read a file of JSON objects: a list, JSON lines or a single object, told by its content.

    Raises:
        UserError: If the file is missing, empty, not UTF-8, not JSON, or holds other things than
            objects.
    """
    text = _read_text(path)
    if not text.strip():
        raise UserError(f"{path}: file is empty; expected a JSON list or JSON lines")
    if text.lstrip().startswith("["):
        entries = _parse(text, path)
        assert isinstance(entries, list)
        placed = [(f"{path}: entry {number}", e) for number, e in enumerate(entries, start=1)]
    else:
        placed = _load_lines(text, path)
    records = []
    for where, entry in placed:
        if not isinstance(entry, dict):
            raise UserError(f"{where}: must be a JSON object, got {show(entry)}")
        records.append(Record(where, entry))
    if not records:
        raise UserError(f"{path}: list is empty; expected at least one JSON object")
    return records


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: must be UTF-8 text, got byte {error.start} that is not") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _load_lines(text: str, path: Path) -> list[tuple[str, object]]:
    placed: list[tuple[str, object]] = []
    # Not `splitlines`: it also splits at U+2028 and U+0085, which JSON allows within a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            placed.append((f"{path}:{number}", _parse(line, path, first_line=number)))
        except UserError:
            whole = None if placed else _parse_single(text)
            if whole is None:
                raise
            return [(f"{path}:{number}", whole)]
    return placed


def _parse_single(text: str) -> object:
    """Parse an object that spans lines; None if it is no JSON as a whole either."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parse(text: str, path: Path, *, first_line: int = 1) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(
            f"{path}:{line}: not valid JSON ({error.msg}, column {error.colno}); "
            "expected a JSON list or JSON lines"
        ) from None
    except RecursionError:
        raise UserError(f"{path}:{first_line}: JSON is nested too deeply") from None
    except ValueError:
        raise UserError(f"{path}:{first_line}: JSON holds a number of too many digits") from None
