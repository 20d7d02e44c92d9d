import os
import signal
import threading
import time
from pathlib import Path

import pytest

from rlff_lightning.commands.child import run_child


def test_a_child_ends_with_its_status_and_leaves_its_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.txt"
    assert run_child(["--version"], log, is_forked=False) == (0, None)
    assert run_child(["fitt"], log, is_forked=False) == (2, None)
    assert log.read_text() == capsys.readouterr().out
    assert log.read_text().startswith("rlff 0")
    assert "rlff: error: rlff has no verb 'fitt'" in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_handed_to_the_child_and_reported(number: int, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("trainer: {}\n")
    # The child is still importing when the signal comes: it ends at once.
    before = signal.getsignal(signal.SIGINT)
    timer = threading.Timer(1.5, os.kill, (os.getpid(), number))
    timer.start()
    start = time.monotonic()
    status, received = run_child(["fit", "--help"], tmp_path / "log", is_forked=False)
    timer.join()
    assert received == number
    assert status != 0
    assert time.monotonic() - start < 10
    assert signal.getsignal(signal.SIGINT) is before
