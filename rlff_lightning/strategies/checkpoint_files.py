"""Checkpoints that exist whole or not at all, as one file or as a folder of shards.

Whatever moment a run is killed at, the path of a checkpoint names a whole one: the latest that was
written to its end. A sharded checkpoint's path is a link to a hidden folder beside it, because only
a link can be moved to another folder in one step.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.load import _load_distributed_checkpoint
from torch import Tensor
from torch.distributed import DistError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from typing_extensions import override

from rlff_lightning.errors import UserError

_METADATA = "meta.pt"
"""Lightning's own file in a folder of shards: all but weights and optimizer states."""
_WEIGHTS = "state_dict"
_OF_THE_MACHINE = (torch.OutOfMemoryError, DistError)
"""What says nothing of the file that is read, though it is a ``RuntimeError``."""


class CheckpointFiles(TorchCheckpointIO):
    """Writes one file beside the target and renames it; reads sharded checkpoints too."""

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        drop_leftovers(target.parent)
        unfinished = hidden(target, "new")
        with unfinished.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        replace(target, unfinished)

    @override
    def load_checkpoint(
        self,
        path: Any,
        map_location: Any | None = lambda storage, loc: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        with whole_checkpoint(path):
            if is_sharded_checkpoint(Path(path)):
                return read_shards(Path(path))
            return super().load_checkpoint(path, map_location, weights_only)

    @override
    def remove_checkpoint(self, path: Any) -> None:
        if Path(path).is_symlink():
            remove(Path(path))
        else:
            super().remove_checkpoint(path)


def is_sharded_checkpoint(path: Path) -> bool:
    """Whether the path names a folder of shards."""
    return (path / _METADATA).is_file()


@contextmanager
def whole_checkpoint(path: Any) -> Iterator[None]:
    """Tell in one line that what is read inside is damaged, or another model's.

    Raises:
        UserError: In the place of all that reading a file or shards may raise.
    """
    try:
        yield
    except _OF_THE_MACHINE:
        raise
    except (EOFError, OSError, RuntimeError, UnpicklingError, BadZipFile) as error:
        raise UserError(_damaged(path, error)) from error
    except CheckpointException as fault:
        # Of one rank or more, and no ``Exception``.
        cause, _ = next(iter(fault.failures.values()))
        if isinstance(cause, _OF_THE_MACHINE):
            raise cause from fault
        raise UserError(_damaged(path, cause)) from cause


def _damaged(path: Any, error: BaseException) -> str:
    line = str(error).strip().partition("\n")[0]
    return f"{path}: damaged, or no checkpoint of this model: {line or type(error).__name__}"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's weights alone; shards are put together in this process.

    Args:
        path: One file, or a folder of shards.

    Returns:
        Whole weights by their names in the stage's module, on the CPU.

    Raises:
        UserError: If it is damaged, or no checkpoint.
    """
    with whole_checkpoint(path):
        if not is_sharded_checkpoint(path):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            found: dict[str, Tensor] = content.get(_WEIGHTS, {})
            return found
        reader = FileSystemReader(path)
        # Only these are read: an optimizer's states are twice as large.
        weights = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in reader.read_metadata().state_dict_metadata.items()
            if name.startswith(f"{_WEIGHTS}.") and isinstance(entry, TensorStorageMetadata)
        }
        load_shards(dict(weights), storage_reader=reader, no_dist=True)
    return {name.removeprefix(f"{_WEIGHTS}."): weight for name, weight in weights.items()}


def read_shards(path: Path) -> dict[str, Any]:
    """Read a sharded checkpoint as if it had been written as one file."""
    checkpoint = _load_distributed_checkpoint(path)
    names = sorted(name for name in checkpoint if name.startswith("optimizer_"))
    checkpoint["optimizer_states"] = [checkpoint.pop(name) for name in names]
    return checkpoint


def hidden(target: Path, mark: str) -> Path:
    """Name a hidden sibling."""
    return target.with_name(f".{target.name}.{mark}")


def replace(target: Path, written: Path) -> None:
    """Let ``target`` be ``written``, a file or a folder, in one step; then drop what it was.

    A file is renamed. A folder stays where it is, and ``target`` becomes a link to it.
    """
    before = _own_shards(target)
    if written.is_dir():
        if target.is_dir() and not target.is_symlink():  # a folder that Lightning itself wrote
            target.rename(hidden(target, "old"))
        link = hidden(target, "link")
        link.symlink_to(written.name)
        written = link
    written.replace(target)
    if before is not None:
        shutil.rmtree(before)
    drop_leftovers(target.parent)


def remove(target: Path) -> None:
    """Drop a link, and then the folder of shards that it names."""
    folder = _own_shards(target)
    target.unlink()
    if folder is not None:
        shutil.rmtree(folder)


def _own_shards(target: Path) -> Path | None:
    """Find the folder that ``target`` names; one that another checkpoint names is not its own."""
    folder = target.resolve()
    is_own = folder.parent == target.parent.resolve() and folder.is_dir()
    return folder if is_own and folder.name.startswith(hidden(target, "").name) else None


def drop_leftovers(folder: Path) -> None:
    """Drop what killed writers left among checkpoints: what is hidden and no link names."""
    named = {path.resolve() for path in folder.glob("*.ckpt") if path.is_symlink()}
    for path in folder.glob(".*.ckpt.*"):
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.resolve() not in named:
            shutil.rmtree(path)
