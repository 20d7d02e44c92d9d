import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_collection_killed_at_random_moments_ends_with_the_undisturbed_table() -> None:
    # The benchmark kills twenty times; its processes fork, which only a fresh one may.
    command = [sys.executable, "benchmarks/futures_killed.py", "--kills", "4", "--contexts", "30"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    assert run.stdout.startswith("4 kills in ")
    assert "rows of 30 contexts equal the undisturbed table's" in run.stdout
