"""Reads a study: arms that change some keys of a pipeline's stages, and the seeds of each."""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlff_lightning.commands.shipped import config_folder
from rlff_lightning.commands.stages import Stage, find_pipeline, read_stages
from rlff_lightning.errors import UserError

FILE = "study.yaml"
_KEYS = {"pipeline", "policy", "references", "baseline", "seeds", "arms"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One way of doing it."""

    name: str
    """Names the folder of its runs."""
    changes: tuple[str, ...]
    """What it changes, as `STAGE.KEY=VALUE`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A grid of arms times seeds over one pipeline."""

    name: str
    """The folder's name."""
    pipeline: Path
    """Folder of stage configs."""
    stages: tuple[Stage, ...]
    """The pipeline's stages."""
    policy: str
    """Policy of each run's `summary.json` that stands for the arm."""
    references: tuple[str, ...]
    """Further policies of it, reported once: they do not depend on the arm."""
    baseline: str
    """Arm that the others are compared with."""
    seeds: tuple[int, ...]
    """Seeds of every arm."""
    arms: tuple[Arm, ...]
    """The baseline among them."""


def find_study(name: str) -> Path:
    """Find a study's folder: a path, or the name of a shipped one.

    Raises:
        UserError: If there is no such folder, or it holds no study.
    """
    shipped = config_folder() / "study"
    for folder in (Path(name), shipped / name):
        if (folder / FILE).is_file():
            return folder.resolve()
    names = ", ".join(sorted(file.parent.name for file in shipped.glob(f"*/{FILE}")))
    raise UserError(f"{name} must be a folder with {FILE} or a shipped study ({names})")


def read_study(folder: Path) -> Study:
    """Read `study.yaml`.

    Raises:
        UserError: If a key is unknown, missing or of the wrong kind, or names no stage.
    """
    file = folder / FILE
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: must be a mapping, got {content!r}")
    for key in content:
        if key not in _KEYS:
            close = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"accepted are {sorted(_KEYS)}"
            raise UserError(f"{file}: unknown key {key!r}; {hint}")
    pipeline = _pipeline(folder, content.get("pipeline", "."))
    stages = tuple(read_stages(pipeline))
    arms = _need(file, content, "arms", dict)
    study = Study(
        name=folder.name,
        pipeline=pipeline,
        stages=stages,
        policy=_need(file, content, "policy", str),
        references=tuple(_references(file, content)),
        baseline=str(content.get("baseline", next(iter(arms), ""))),
        seeds=tuple(_need(file, content, "seeds", list)),
        arms=tuple(_arm(file, str(name), changes, stages) for name, changes in arms.items()),
    )
    _check(file, study)
    return study


def _check(file: Path, study: Study) -> None:
    names = [arm.name for arm in study.arms]
    if study.baseline not in names:
        raise UserError(f"{file}: baseline must be one of {names}, got {study.baseline!r}")
    is_whole = all(isinstance(seed, int) and not isinstance(seed, bool) for seed in study.seeds)
    if not study.seeds or not is_whole or len(set(study.seeds)) != len(study.seeds):
        raise UserError(f"{file}: seeds must be different whole numbers, got {list(study.seeds)}")


def _pipeline(folder: Path, name: str) -> Path:
    inside = folder / name
    return inside.resolve() if inside.is_dir() else find_pipeline(name)


def _need(file: Path, content: dict[str, Any], key: str, kind: type) -> Any:
    value = content.get(key)
    if not isinstance(value, kind) or not value:
        raise UserError(f"{file}: {key} must be a {kind.__name__} that is not empty, got {value!r}")
    return value


def _references(file: Path, content: dict[str, Any]) -> list[str]:
    names = content.get("references") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file}: references must be a list of names, got {names!r}")
    return names


def _arm(file: Path, name: str, changes: Any, stages: tuple[Stage, ...]) -> Arm:
    if not name.replace("_", "").replace("-", "").isalnum():
        raise UserError(f"{file}: arms.{name}: a name has letters, digits, - and _ only")
    if changes is not None and not isinstance(changes, dict):
        raise UserError(f"{file}: arms.{name} must map STAGE.KEY to a value, got {changes!r}")
    known = [stage.name for stage in stages]
    words = []
    for target, value in (changes or {}).items():
        if str(target).partition(".")[0] not in known or "." not in str(target):
            raise UserError(
                f"{file}: arms.{name}: {target!r} must be STAGE.KEY with a stage of "
                f"{', '.join(known)}"
            )
        words.append(f"{target}={value if isinstance(value, str) else json.dumps(value)}")
    return Arm(name=name, changes=tuple(words))
