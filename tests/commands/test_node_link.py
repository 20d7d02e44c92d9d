"""What a node does about one that is gone without a word."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from rlff_lightning.commands.node_link import NodeLink

HEAD = """
import sys, time
from rlff_lightning.commands.node_link import NodeLink
NodeLink("127.0.0.1", int(sys.argv[1]), node=0, nodes=2, silence_s=60).start()
time.sleep(100)
"""


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_node_0_that_neither_answers_nor_hangs_up_is_blamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told: list[int] = []
    kill = os.kill
    monkeypatch.setattr(
        os, "kill", lambda pid, n: told.append(n) if pid == os.getpid() else kill(pid, n)
    )
    monkeypatch.setattr("rlff_lightning.commands.node_link._GATHER_S", 1.0)
    head = subprocess.Popen([sys.executable, "-c", HEAD, str(port)])
    try:
        link = NodeLink("127.0.0.1", port, node=1, nodes=2, silence_s=3)
        link.start()
        wait_until(lambda: link._round, 120)
        # As after a loss of power: its connections stay open, and nobody answers.
        head.send_signal(signal.SIGSTOP)
        wait_until(lambda: told, 30)
        assert told == [signal.SIGTERM]
        blamed = link.end(None)
        assert blamed is not None
        assert blamed.who == "node 0 of 2"
    finally:
        head.kill()
        head.wait()
