"""Two processes train one policy: the tests beside this file, in a process of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)


def test_the_table_of_two_processes_in_a_process_without_threads():
    # They fork. In this process engines and OpenMP have started threads, and a fork of those hangs.
    tests = Path(__file__).with_name("goal_ranks_in_a_fresh_process.py")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--timeout=800",
        "-p",
        "no:cacheprovider",
        str(tests),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=840)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "2 passed" in run.stdout
