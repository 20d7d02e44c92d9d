"""What every test relies on: no network, no deadline on a busy machine, the command itself."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

Rlff = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def rlff(tmp_path: Path) -> Rlff:
    """Run the command as a user does, in a folder of its own."""

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "rlff_lightning.cli", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run
