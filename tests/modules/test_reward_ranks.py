"""Two processes train one reward model: the tests beside this file, in a process of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)


def test_two_ranks_train_and_test_as_one():
    # They fork. In this process other tests have started threads, and a fork of those hangs.
    tests = Path(__file__).with_name("reward_ranks_in_a_fresh_process.py")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--timeout=800",
        "-p",
        "no:cacheprovider",
        str(tests),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=840)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "passed" in run.stdout
