import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import DistError, DistNetworkError
from torch.distributed.checkpoint.api import CheckpointException

from rlff_lightning.errors import UserError
from rlff_lightning.strategies.checkpoint_files import (
    CheckpointFiles,
    remove,
    replace,
    whole_checkpoint,
)

KILLED = """\
import os, signal, sys
from rlff_lightning.strategies.checkpoint_files import CheckpointFiles
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
CheckpointFiles().save_checkpoint({"step": 2}, sys.argv[1])
"""


def test_a_writer_that_is_killed_leaves_the_checkpoint_before_and_no_litter_for_long(
    tmp_path: Path,
) -> None:
    files, path = CheckpointFiles(), tmp_path / "checkpoints" / "last.ckpt"
    files.save_checkpoint({"step": 1}, path)
    died = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert sorted(file.name for file in path.parent.iterdir()) == [".last.ckpt.new", "last.ckpt"]
    assert files.load_checkpoint(path) == {"step": 1}
    files.save_checkpoint({"step": 3}, path)
    assert files.load_checkpoint(path) == {"step": 3}
    assert list(path.parent.iterdir()) == [path]


def shards(path: Path, step: int) -> Path:
    folder = path.with_name(f".{path.name}.{step}")
    folder.mkdir()
    torch.save({"step": step}, folder / "meta.pt")
    return folder


def test_a_folder_of_shards_takes_the_place_of_the_one_before_by_a_link(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    replace(path, shards(path, 1))
    unfinished = shards(path, 2)
    # As a killed writer leaves it: the second is written and nothing names it.
    assert torch.load(path / "meta.pt", weights_only=True) == {"step": 1}
    replace(path, unfinished)
    assert torch.load(path / "meta.pt", weights_only=True) == {"step": 2}
    assert sorted(file.name for file in tmp_path.iterdir()) == [".last.ckpt.2", "last.ckpt"]
    # A run may be moved: links are relative.
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert (moved / "last.ckpt" / "meta.pt").is_file()
    remove(moved / "last.ckpt")
    assert list(moved.iterdir()) == []


def test_a_file_takes_the_place_of_a_folder_of_shards(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    replace(path, shards(path, 1))
    CheckpointFiles().save_checkpoint({"step": 2}, path)
    assert CheckpointFiles().load_checkpoint(path) == {"step": 2}
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_link_borrowed_from_another_checkpoint_stays(tmp_path: Path) -> None:
    # As `save_last: link` left it: of shards, and of one file.
    sharded, whole = tmp_path / "step=1.ckpt", tmp_path / "step=2.ckpt"
    last, first = tmp_path / "last.ckpt", tmp_path / "first.ckpt"
    replace(sharded, shards(sharded, 1))
    CheckpointFiles().save_checkpoint({"step": 2}, whole)
    last.symlink_to(sharded.name)
    first.symlink_to(whole.name)
    replace(last, shards(last, 3))
    remove(first)
    assert torch.load(last / "meta.pt", weights_only=True) == {"step": 3}
    assert torch.load(sharded / "meta.pt", weights_only=True) == {"step": 1}
    assert CheckpointFiles().load_checkpoint(whole) == {"step": 2}
    last.unlink()
    last.symlink_to(whole.name)
    CheckpointFiles().save_checkpoint({"step": 4}, last)
    assert CheckpointFiles().load_checkpoint(last) == {"step": 4}
    assert CheckpointFiles().load_checkpoint(whole) == {"step": 2}


def test_a_file_that_was_cut_off_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    CheckpointFiles().save_checkpoint({"step": torch.arange(1000)}, path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no checkpoint", b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged, or no checkpoint of this model"):
            CheckpointFiles().load_checkpoint(path)


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("no room"), DistNetworkError("no peer")])
def test_what_the_machine_lacks_is_not_blamed_on_the_file(fault: RuntimeError) -> None:
    with pytest.raises((torch.OutOfMemoryError, DistError), match=str(fault)):  # noqa: SIM117
        with whole_checkpoint("last.ckpt"):
            raise fault
    of_a_rank: dict[int, Any] = {1: (fault, None)}
    with pytest.raises(type(fault), match=str(fault)):  # noqa: SIM117
        with whole_checkpoint("last.ckpt"):
            raise CheckpointException("read", of_a_rank)
