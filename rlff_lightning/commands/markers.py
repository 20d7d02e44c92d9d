"""Fingerprints of stages: what a stage's result depends on, and the marker that it is there."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlff_lightning import __version__
from rlff_lightning.commands.stages import Stage
from rlff_lightning.data.identity import may_be_path, sha256_of
from rlff_lightning.errors import UserError

DONE = "done.json"
STARTED = "started.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A stage with everything that decides its result."""

    stage: Stage
    """What is run."""
    argv: tuple[str, ...]
    """Verb and options."""
    reads: Mapping[str, str]
    """Stages whose outputs the config names, with their fingerprints."""
    needs: tuple[str, ...]
    """Paths of those outputs, from the run's folder."""
    inputs: Mapping[str, str]
    """Files outside the run that the config names, and folders that an option names, with their
    SHA-256."""
    fingerprint: str
    """Hash of the resolved config, of `reads`, of `inputs` and of the package's version."""


def plan_stage(
    stage: Stage,
    argv: list[str],
    resolved: Mapping[str, Any],
    earlier: Mapping[str, str],
    run: Path,
) -> Plan:
    """Hash what a stage depends on.

    Args:
        stage: What is run.
        argv: Verb and options.
        resolved: The stage's whole config as plain values.
        earlier: Fingerprints of the stages before it; the config reads one of them if any of its
            strings starts with `<stage>/`.
        run: The run's folder, which relative paths of the config start from.

    Returns:
        The stage's plan; equal fingerprints mean that the result would be the same.
    """
    texts = sorted(set(_strings(resolved)))
    reads = {
        name: fingerprint
        for name, fingerprint in earlier.items()
        if any(text.startswith(f"{name}/") for text in texts)
    }
    needs = tuple(text for text in texts if text.split("/")[0] in reads and "/" in text)
    # A folder that only the config names may be one that the stage writes to.
    options = {word.partition("=")[2] for word in argv}
    inputs = {
        text: sha256_of(run / text)
        for text in texts
        if _is_outside_file(text, run) or (text in options and _is_outside_folder(text, run))
    }
    content = [stage.verb, resolved, reads, inputs, __version__]
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    return Plan(
        stage=stage,
        argv=tuple(argv),
        reads=reads,
        needs=needs,
        inputs=inputs,
        fingerprint=fingerprint,
    )


def read_marker(run: Path, stage: str, name: str) -> dict[str, Any]:
    """Read a stage's marker; a stage without one has an empty one.

    Raises:
        UserError: If the file is no JSON object.
    """
    file = run / stage / name
    if not file.is_file():
        return {}
    try:
        marker = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}:{error.lineno}: no JSON; delete it to run the stage anew"
        ) from error
    if not isinstance(marker, dict):
        raise UserError(f"{file}: must be a JSON object; delete it to run the stage anew")
    return marker


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    part = file.with_name(f".{file.name}.part")
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(file)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _is_outside_file(text: str, run: Path) -> bool:
    if not may_be_path(text):
        return False
    path = run / text
    return path.is_file() and not path.resolve().is_relative_to(run.resolve())


def _is_outside_folder(text: str, run: Path) -> bool:
    if not may_be_path(text):
        return False
    # A folder around the run holds what the run writes.
    path, inside = (run / text).resolve(), run.resolve()
    return path.is_dir() and not path.is_relative_to(inside) and not inside.is_relative_to(path)
