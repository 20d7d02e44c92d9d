"""Reads a folder of stage configs and the arguments that it declares for the command line."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlff_lightning.commands.shipped import config_folder
from rlff_lightning.errors import UserError

VERBS = ("fit", "validate", "test", "predict")
_FILE = re.compile(r"(?P<number>\d+)_(?P<name>[a-z][a-z0-9_]*)\.(?P<verb>[a-z]+)\.yaml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One config of a pipeline, run as `rlff VERB --config FILE`."""

    name: str
    """Names the folder in the run that holds what the stage writes."""
    verb: str
    """Trainer verb."""
    config: Path
    """Absolute path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Argument:
    """A value that a pipeline takes from the command line."""

    name: str
    """Given as `--name VALUE`."""
    help: str
    """What it is, in a line."""
    sets: tuple[tuple[str, str], ...]
    """Stage and dotted key that take the value."""
    default: str | None
    """Used where none is given."""
    is_required: bool
    """It has no default."""
    is_path: bool
    """It names a file or folder that must exist."""
    also: tuple[tuple[str, str, str], ...] = ()
    """Stage, dotted key and the value that the key takes where this argument is given."""


def find_pipeline(name: str) -> Path:
    """Find a pipeline's folder: a path, or the name of a shipped one such as `demo`.

    Raises:
        UserError: If there is no such folder.
    """
    if Path(name).is_dir():
        return Path(name).resolve()
    shipped = config_folder()
    if (shipped / name.removeprefix("configs/").strip("/")).is_dir():
        return shipped / name.removeprefix("configs/").strip("/")
    names = sorted({file.parent.name for file in shipped.glob("*/[0-9]*_*.*.yaml")})
    raise UserError(f"{name} is no folder and no shipped pipeline ({', '.join(names) or 'none'})")


def read_stages(folder: Path) -> list[Stage]:
    """Read a folder's stages in the order of their numbers.

    Raises:
        UserError: If a file is named wrongly, a stage occurs twice or there is none.
    """
    numbered: list[tuple[int, Stage]] = []
    for file in sorted(folder.glob("[0-9]*.yaml")):
        match = _FILE.fullmatch(file.name)
        if match is None or match["verb"] not in VERBS:
            verbs = "|".join(VERBS)
            raise UserError(f"{file}: a stage is named <number>_<stage>.<{verbs}>.yaml")
        stage = Stage(name=match["name"], verb=match["verb"], config=file.resolve())
        numbered.append((int(match["number"]), stage))
    if not numbered:
        raise UserError(f"{folder}: no stage in it; expected files like 1_warm_start.fit.yaml")
    stages = [stage for _, stage in sorted(numbered, key=lambda pair: pair[0])]
    names = [*(str(number) for number, _ in numbered), *(stage.name for stage in stages)]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{folder}: stage {name} occurs twice")
    return stages


def read_arguments(folder: Path, stages: Sequence[Stage]) -> list[Argument]:
    """Read the arguments that `pipeline.yaml` declares; without the file there are none.

    Raises:
        UserError: If the file is not of the form `arguments: {NAME: {help, sets, default}}`;
            `is_path` and `also: {STAGE.KEY: VALUE}` may stand beside these.
    """
    file = folder / "pipeline.yaml"
    if not file.is_file():
        return []
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no YAML: {error}") from error
    _check_keys(file, "", content, {"arguments"})
    declared = content.get("arguments") or {}
    _check_keys(file, "arguments", declared, None)
    return [_argument(file, name, fields, stages) for name, fields in declared.items()]


def _argument(file: Path, name: str, fields: Any, stages: Sequence[Stage]) -> Argument:
    _check_keys(file, f"arguments.{name}", fields, {"help", "sets", "also", "default", "is_path"})
    also = fields.get("also") or {}
    _check_keys(file, f"arguments.{name}.also", also, None)
    default = fields.get("default")
    return Argument(
        name=name,
        help=str(fields.get("help", "")),
        sets=tuple(_target(file, name, "sets", str(key), stages) for key in fields.get("sets", [])),
        default=None if default is None else str(default),
        is_required="default" not in fields,
        is_path=bool(fields.get("is_path", False)),
        also=tuple(
            (*_target(file, name, "also", str(key), stages), str(value))
            for key, value in also.items()
        ),
    )


def _target(
    file: Path, name: str, field: str, target: str, stages: Sequence[Stage]
) -> tuple[str, str]:
    names = [stage.name for stage in stages]
    stage, _, key = target.partition(".")
    if stage not in names or not key:
        raise UserError(
            f"{file}: arguments.{name}.{field} must name STAGE.KEY with a stage of "
            f"{', '.join(names)}, got {target!r}"
        )
    return stage, key


def _check_keys(file: Path, where: str, fields: Any, accepted: set[str] | None) -> None:
    prefix = f"{file}: {where or 'the file'}"
    if not isinstance(fields, dict):
        raise UserError(f"{prefix} must be a mapping, got {fields!r}")
    for key in fields if accepted is not None else ():
        if key not in (accepted or ()):
            close = difflib.get_close_matches(str(key), accepted or (), n=1)
            hint = (
                f"did you mean {close[0]}?" if close else f"accepted are {sorted(accepted or ())}"
            )
            raise UserError(f"{prefix} has the unknown key {key!r}; {hint}")
