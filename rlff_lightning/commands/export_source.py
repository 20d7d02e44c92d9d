"""Finds what `rlff export` is to write: the weights, and the run that they come from."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from rlff_lightning.errors import UserError

Kind = Literal["adapter", "model", "reward", "checkpoint"]
_MARKS: dict[str, Kind] = {
    "reward_head.json": "reward",
    "adapter_config.json": "adapter",
    "config.json": "model",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Trained weights, and what is known of their training."""

    weights: Path
    """Folder of a model, an adapter or a reward model; or a checkpoint, a file or shards."""
    kind: Kind
    """What is there."""
    stage: Path | None
    """Folder of the stage that trained it, if its `config.yaml` was found."""
    config: dict[str, Any] = field(default_factory=dict)
    """That file's content."""

    @property
    def run(self) -> Path | None:
        """The folder that the stage's relative paths start from."""
        return self.stage.parent if self.stage else None

    @property
    def module(self) -> str:
        """Class path of the stage's module, empty if unknown."""
        return str((self.config.get("model") or {}).get("class_path", ""))

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the stage's module."""
        found = (self.config.get("model") or {}).get("init_args")
        return found if isinstance(found, dict) else {}

    @property
    def backbone(self) -> dict[str, Any]:
        """Settings of the trained model as the stage's config has them."""
        return self.arguments.get("policy") or self.arguments.get("backbone") or {}


def find_source(name: str, stage: str | None = None) -> Source:
    """Find weights in a run, a stage's folder, a checkpoint or a folder of their own.

    Args:
        name: Path.
        stage: The run's stage whose weights are meant; ``None`` for ``policy``.

    Raises:
        UserError: If there is nothing to export.
    """
    path = Path(name).expanduser()
    if not path.exists():
        raise UserError(f"rlff export: {name}: no such run, checkpoint or model folder")
    if path.is_file():
        if path.suffix != ".ckpt":
            raise UserError(f"rlff export: {name} must be a checkpoint (*.ckpt) or a folder")
        return _source(path, "checkpoint", path.absolute().parents)
    if (path / ".metadata").is_file():  # a folder of shards
        return _source(path, "checkpoint", path.absolute().parents)
    if stage is None and (kind := _kind(path)):
        return _source(path, kind, [path.parent])
    for home in [path / (stage or "policy"), *([] if stage else [path])]:
        found = [folder for folder in (home / "adapter", home / "model") if _kind(folder)]
        if len(found) > 1:
            raise UserError(
                f"rlff export: {home} holds both an adapter and a model, of two trainings; name "
                f"one: {found[0]} or {found[1]}"
            )
        for weights in found:
            if kind := _kind(weights):
                return _source(weights, kind, [home])
    stages = sorted({folder.parent.name for folder in _weights(path)})
    hint = f"name one with --stage: {', '.join(stages)}" if stages else "it holds no weights"
    raise UserError(f"rlff export: nothing to export in {path / stage if stage else path}; {hint}")


def _kind(folder: Path) -> Kind | None:
    return next((kind for name, kind in _MARKS.items() if (folder / name).is_file()), None)


def _weights(run: Path) -> Iterator[Path]:
    for name in ("adapter", "model"):
        yield from (folder for folder in run.glob(f"*/{name}") if _kind(folder))


def _source(weights: Path, kind: Kind, homes: Any) -> Source:
    # A checkpoint lies a folder or two below its stage's.
    for home in list(homes)[:3]:
        file = home / "config.yaml"
        if file.is_file():
            config = read_config(file)
            return Source(weights=weights, kind=kind, stage=home.resolve(), config=config)
    return Source(weights=weights, kind=kind, stage=None)


def read_config(file: Path) -> dict[str, Any]:
    """Read a stage's resolved config.

    Raises:
        UserError: If it is no YAML mapping.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{file}: no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: must be a mapping")
    return content
